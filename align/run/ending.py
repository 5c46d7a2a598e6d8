"""How the command `align train` ends: the reason in one line, what was kept, and the command that goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from align.errors import UserError
from align.run.checkpoints import continue_hint
from align.run.signals import Terminated, stoppable

STOPPED_BY_HAND = 130
"""The exit code that shells use for Ctrl-C; for another signal it is 128 and the signal's number."""


@contextmanager
def report_ending(run_dir: Path, command: str, say: Callable[[str], None]) -> Iterator[None]:
    """If a run in the block stops, print what it has kept and end the program: with exit code 2 for an error of the user.

    An exception that is a defect keeps its traceback.
    """
    try:
        with stoppable():
            yield
    except KeyboardInterrupt as stop:
        how, code = (f"by {stop}", 128 + stop.number) if isinstance(stop, Terminated) else ("by hand", STOPPED_BY_HAND)
        remains = continue_hint(run_dir, command)
        say(f"Stopped {how}: nothing was kept." if remains is None else f"Stopped {how}. {remains}")
        raise SystemExit(code) from None
    except (Exception, SystemExit) as error:
        if isinstance(error, UserError):
            say(str(error))
        if remains := continue_hint(run_dir, command):
            say(remains)
        if isinstance(error, UserError):
            raise SystemExit(2) from error
        raise
