"""Writes plugins of several files, and loads the reward in one."""

import textwrap
from pathlib import Path

import pytest

from align.config.nodes import build_part
from align.errors import RecipeError
from align.types import Prompt

PROMPT = Prompt(id="p", text="1", token_ids=(1,))


def write(folder: Path, **texts: str) -> Path:
    """Files by their path without suffix, `__` for a slash; `pkg__init` is `pkg/__init__.py`."""
    for name, text in texts.items():
        *above, last = name.split("__")
        path = folder.joinpath(*above, f"{'__init__' if last == 'init' else last}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
    return folder


def reward(expression: str, imports: str = "") -> str:
    return f"{imports}\nclass Mine:\n    def score(self, prompt, response):\n        return {expression}\n"


def score(spec: str) -> float:
    return build_part("reward", spec, "reward").score(PROMPT, "")


def refusal(spec: str) -> str:
    with pytest.raises(RecipeError) as caught:
        build_part("reward", spec, "reward")
    return str(caught.value)
