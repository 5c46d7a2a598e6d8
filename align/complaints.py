"""How the command line prints an error: one message without a traceback."""
# ruff: noqa: PLC0415

from __future__ import annotations

import sys
from typing import Any

import typer
from click import ClickException
from rich.text import Text
from typer.core import TyperGroup

from align.errors import UserError
from align.terminal import SafeConsole, printable


class Commands(TyperGroup):
    """Prints a UserError, or an exception inside a plugin, as one message without a traceback.

    Any other exception is a defect and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            complain(str(error))
            raise typer.Exit(2) from error
        except (typer.Exit, typer.Abort, ClickException):
            raise
        except (Exception, SystemExit) as error:
            if "align.plugins" not in sys.modules:
                raise
            from align.config.guard import plugin_error

            line = plugin_error(error)
            if line is None:
                raise
            complain(line)
            raise typer.Exit(2) from error


def complain(message: str, style: str = "red") -> None:
    """Print a message to stderr."""
    SafeConsole(stderr=True, soft_wrap=True, highlight=False).print(Text(printable(message), style=style))
