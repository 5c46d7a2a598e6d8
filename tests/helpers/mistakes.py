"""The `align` command in this process, on a small recipe with one mistake in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from align.cli import app
from helpers.models import tiny_model

RECIPE = {
    "steps": 2,
    "task": {"name": "jsonl", "path": "rows.jsonl"},
    "reward": "match",
    "algorithm": "grpo",
    "model": {"path": "model"},
    "batch": {"prompts": 2, "samples": 2},
    "sampling": {"max_tokens": 4},
    "workers": {"backend": "local"},
    "evaluation": {"every": -1},
}
ROWS = '{"prompt": "1+1=", "answer": "2"}\n{"prompt": "2+2=", "answer": "4"}\n'


def prepare(folder: Path) -> Path:
    """A working directory with a model, two rows and `small.yaml`."""
    tiny_model(folder / "model")
    (folder / "rows.jsonl").write_text(ROWS)
    write(folder, "small")
    return folder


def write(folder: Path, name: str, **changes: Any) -> str:
    """`NAME.yaml`, the recipe with these changes; None takes a key away."""
    (folder / f"{name}.yaml").write_text(json.dumps({k: v for k, v in (RECIPE | changes).items() if v is not None}))
    return f"{name}.yaml"


def align(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "300"})


def refused(found: Result, says: str, code: int = 2) -> None:
    """Asserts that the command ended with one message that says this, without a traceback, and left no run behind."""
    assert isinstance(found.exception, SystemExit), repr(found.exception)
    assert found.exit_code == code and says in found.stderr, found.stderr
    assert "Traceback" not in found.output
    assert not [f for f in Path("runs").glob("**/*") if f.is_file()] or "Kept: " in found.stderr
