"""Errors of the file system while a run writes: a full disk, a quota, a folder without permission."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from align.errors import UserError, WriteFailed

CODE = re.compile(r"os error (\d+)")
"""How safetensors, which is not written in Python, says which error it was."""


@contextmanager
def writing(what: object) -> Iterator[None]:
    """Raises WriteFailed, which names `what` and the reason, in place of an error of the file system inside the block."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        code = _code(error)
        if code is None:
            raise
        remedy = "free some space" if code in (errno.ENOSPC, errno.EDQUOT) else "make it possible"
        raise WriteFailed(f"{what} cannot be written: {os.strerror(code)}; {remedy}, then resume") from error


def _code(error: BaseException | None) -> int | None:
    """The number of the file system's error that caused this one; None if none did."""
    if error is None:
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if found := CODE.search(str(error)):
        return int(found[1])
    return _code(error.__cause__) or _code(error.__context__)


def write_new(file: Path, text: str, remedy: str) -> None:
    """Write a file that is not there yet. Raises UserError, with the remedy, for one that is, and for a place that cannot be written."""
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError as error:
        raise UserError(f"{file} exists and is not overwritten: {remedy}") from error
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
