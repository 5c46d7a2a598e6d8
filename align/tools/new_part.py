"""The command `align new`: writes a part of the user's own that passes `align check`, to start from."""

from __future__ import annotations

import ast
import importlib.util
import keyword
import re
from pathlib import Path
from typing import NamedTuple

from align.config.registry import ROOMS
from align.config.suggestions import did_you_mean
from align.disk import write_new
from align.errors import UserError

FOLDER = Path(__file__).parent / "skeletons"
IN_RECIPE = "In a recipe:"
"""The words of a skeleton's docstring before the lines of YAML."""


class Written(NamedTuple):
    """A file that was written."""

    file: Path
    part: str
    """`./file.py:Class`, its name in a recipe."""
    usage: str
    """Lines of YAML that use it."""


def new_part(kind: str, name: str) -> Written:
    """Write a part of this kind into the working directory, and return what was written.

    Args:
        kind: One of `align list`.
        name: `my_reward` or `MyReward`: the file is `my_reward.py` and the class `MyReward`.

    Raises: UserError for an unknown kind, a name that is no identifier or that of an installed module, and a file that exists.
    """
    if kind not in ROOMS:
        raise UserError(f"there is no kind of part called {kind}; {did_you_mean(kind, ROOMS)}Kinds: {', '.join(ROOMS)}")
    module, cls = _names(name)
    file = Path(f"{module}.py")
    text = (FOLDER / f"{kind}.py").read_text(encoding="utf-8").replace("skeleton.py", file.name).replace("Skeleton", cls)
    if not file.exists() and importlib.util.find_spec(module) is not None:
        # A part's file finds the files beside it first, so its own import of that module would import itself.
        raise UserError(f"{module} is the name of an installed module: call the part otherwise")
    write_new(file, text, "give another name")
    usage = (ast.get_docstring(ast.parse(text)) or "").partition(IN_RECIPE)[2].strip()
    return Written(file, f"./{file}:{cls}", usage)


def _names(name: str) -> tuple[str, str]:
    """The names of module and class: `my_reward` and `MyReward`. Raises UserError for a name that is no identifier."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|-", "_", name.removesuffix(".py")).lower()
    cls = "".join(word[:1].upper() + word[1:] for word in words.split("_"))
    if not (words.isascii() and words.isidentifier() and cls.isidentifier()) or keyword.iskeyword(words) or keyword.iskeyword(cls):
        raise UserError(f"{name!r} is no name of a Python file and class: use letters, digits and _, such as my_reward")
    return words, cls
