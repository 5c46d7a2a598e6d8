"""Where things are in the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PLUGINS = Path(__file__).parent / "plugins"
RECIPES = ROOT / "recipes"
TESTS = ROOT / "tests"
