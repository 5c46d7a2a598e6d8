"""Which lines of a traceback a user wrote: only those help a user mend a part of their own."""

from __future__ import annotations

import inspect
import traceback

NOT_THEIRS = {"align", "align_kernels", "importlib", "torch"}


def own_frames(error: BaseException) -> traceback.StackSummary:
    """The frames outside align, its kernels, torch and the import machinery, innermost last."""
    frames = traceback.walk_tb(error.__traceback__)
    return traceback.StackSummary.extract(
        (frame, line) for frame, line in frames if frame.f_globals["__name__"].partition(".")[0] not in NOT_THEIRS
    )


def calling_line(file: str) -> int | None:
    """The line of `file` that runs, of the innermost call; None where no call is of a function there."""
    stack = traceback.walk_stack(inspect.currentframe())
    return next((line for frame, line in stack if frame.f_code.co_filename == file), None)


def own_traceback(error: BaseException) -> str:
    """What failed as its author needs it: `file:line: error` where the text or its imports are wrong, else the frames and the error."""
    frames, message = own_frames(error), traceback.format_exception_only(error)
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}: " if error.filename else ""
        return place + message[-1].strip()
    if isinstance(error, ImportError) and len(frames) < 2:
        place = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
        return place + message[-1].strip()
    return "".join([*frames.format(), *message]).strip()
