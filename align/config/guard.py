"""Turns an exception inside a user's part into one line: the recipe's key, the line of the user's code, and the exception."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from align.config.parts import ships
from align.config.refusals import parts_with_settings
from align.config.registry import ROOMS, contract
from align.errors import RunStopped, UserError
from align.plugins.imports import PREFIX

LONGEST = 300
"""Characters of an exception's message that are shown."""


@contextmanager
def guarded(recipe: Any) -> Iterator[None]:
    """Runs the block, which calls the parts of this recipe.

    Raises RunStopped for an exception (or `sys.exit`) inside a user's part. An error for the user passes unchanged, and an exception
    that no user's part caused keeps its traceback. A run of the block without an exception costs nothing.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # libraries raise others than Exception: a panic of Rust code, a cancelled task
        line = part_error(recipe, error)
        if line is None:
            raise
        raise RunStopped(line) from error


def part_error(recipe: Any, error: BaseException) -> str | None:
    """`KEY: FILE:LINE: EXCEPTION: MESSAGE` for an exception inside a user's part of this recipe; None if none of its parts caused it."""
    parts = [(part, setting.where) for part, setting in parts_with_settings(recipe) if not ships(type(part))]
    packages = {_package(type(part).__module__) for part, _ in parts}
    theirs = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _of(frame) in packages]
    if not theirs:
        return None
    key, name = _part_of_frame(parts, theirs[0][0])
    return f"{key}: {error_line(theirs, error)}; `align check {name}` tests the part"


def plugin_error(error: BaseException) -> str | None:
    """`FILE:LINE: EXCEPTION: MESSAGE` for an exception inside any plugin file; None if no plugin caused it."""
    theirs = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _of(frame).startswith(PREFIX)]
    return error_line(theirs, error) if theirs else None


def error_line(theirs: Sequence[tuple[FrameType, int]], error: BaseException) -> str:
    """`FILE:LINE: EXCEPTION: MESSAGE`, at the innermost of these frames."""
    frame, line = theirs[-1]
    message = " ".join(str(error).split()) or "(no message)"
    short = message if len(message) <= LONGEST else f"{message[:LONGEST]}..."
    return f"{frame.f_code.co_filename}:{line}: {type(error).__name__}: {short}"


def _package(module: str) -> str:
    return module.partition(".")[0]


def _of(frame: FrameType) -> str:
    return _package(frame.f_globals.get("__name__", ""))


def _part_of_frame(parts: Sequence[tuple[Any, str]], frame: FrameType) -> tuple[str, str]:
    """Key and name of the part whose method the frame runs, or which made the object whose method it runs."""
    own = _self(frame.f_code, frame)
    part, key = (
        next(((part, key) for part, key in parts if part is own), None)
        or next(((part, key) for part, key in parts if own is not None and _kind(type(part)) == _running_kind(type(own))), None)
        or next(((part, key) for part, key in parts if type(part).__module__ == frame.f_globals.get("__name__")), None)
        or next((part, key) for part, key in parts if _package(type(part).__module__) == _of(frame))
    )
    return key, getattr(part, "recipe_name", type(part).__name__)


def _self(code: CodeType, frame: FrameType) -> Any:
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None


def _kind(cls: type) -> str | None:
    return next((kind for kind in ROOMS if issubclass(cls, contract(kind))), None)


def _running_kind(cls: type) -> str | None:
    """The kind of the part that makes objects of this class; None for another class."""
    running = {f"Running{kind.capitalize()}": kind for kind in ROOMS}
    return next((running[base.__name__] for base in cls.__mro__ if base.__name__ in running and ships(base)), None)
