"""Selects the lines of a traceback in the user's own code, which help to fix a user's part."""

from __future__ import annotations

import inspect
import traceback

NOT_THEIRS = {"align", "align_kernels", "contextlib", "functools", "importlib", "torch"}


def own_frames(error: BaseException) -> traceback.StackSummary:
    """The frames outside align, its kernels, torch and Python's own wrappers and imports, innermost last."""
    frames = traceback.walk_tb(error.__traceback__)
    return traceback.StackSummary.extract(
        (frame, line) for frame, line in frames if frame.f_globals["__name__"].partition(".")[0] not in NOT_THEIRS
    )


def calling_line(file: str) -> int | None:
    """The current line of `file` in the innermost call of its functions; None if there is no such call."""
    stack = traceback.walk_stack(inspect.currentframe())
    return next((line for frame, line in stack if frame.f_code.co_filename == file), None)


def own_traceback(error: BaseException) -> str:
    """The error for the author of the code: `file:line: error` for wrong syntax or imports, else the user's frames and the error."""
    frames, message = own_frames(error), traceback.format_exception_only(error)
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}: " if error.filename else ""
        return place + message[-1].strip()
    if isinstance(error, ImportError) and len(frames) < 2:
        place = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
        return place + message[-1].strip()
    return "".join([*frames.format(), *message]).strip()
