"""The `align` command in this process, made once: typer builds all its commands again for each call, in 36 ms."""

from functools import cache

import typer.testing


def install() -> None:
    """In this process."""
    typer.testing._get_command = cache(typer.testing._get_command)  # pyright: ignore[reportAttributeAccessIssue, reportPrivateImportUsage]
