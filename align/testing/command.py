"""The command `align check`: determines the kind of a part, runs its kit, and shows the findings."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.errors import UserError
from align.inspect.catalogue import catalogue
from align.tasks.jsonl import Jsonl
from align.testing import CHECKS, Finding, check
from align.testing.targets import keys, kind_of
from align.types import Prompt

OPTIONS = {"model_dir": "--model", "prompts": "--prompts"}


def findings(
    what: str, given: Sequence[str], kind: str | None = None, model: Path | None = None, prompts: Path | None = None
) -> tuple[str, list[Finding]]:
    """The kind of the part `what` (a name, or `file.py:Class`), and the findings of its kit.

    Args: given: its keys, `key=value`; model: a model folder to check an engine or a reference with; prompts: a JSONL file of prompts
    with the fields that a reward reads. Raises UserError if there is no such part, or an option does not apply to its kind.
    """
    kind = kind or kind_of(what)
    if kind not in CHECKS:
        catalogue(kind)  # raises for an unknown kind
        raise UserError(f"there is no kit for a {kind} yet")
    extra = {"model_dir": model, "prompts": None if prompts is None else _prompts(prompts)}
    extra = {name: value for name, value in extra.items() if value is not None}
    for name in extra:
        if name not in inspect.signature(CHECKS[kind]).parameters:
            raise UserError(f"{OPTIONS[name]} changes nothing for a {kind}")
    return kind, check(kind, what, **keys(given), **extra)


def _prompts(file: Path) -> list[Prompt]:
    return [Prompt(id=e.id, text=e.text, token_ids=(1,), fields=e.fields) for e in Jsonl(path=str(file)).examples()]


def show(title: str, found: Sequence[Finding], out: Console) -> None:
    """Print a table of the checks and the number of failures."""
    out.print(Text(f"{title}\n", style="bold"))
    out.print(table(found))
    out.print(f"\n{len(found)} checks, {sum(not f.passed for f in found)} failed")


def table(found: Sequence[Finding]) -> Table:
    """One line per check; a failure shows what was expected and how to fix it."""
    result = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("check", "result", "how to fix"):
        result.add_column(column, no_wrap=column == "check", overflow="fold")
    for f in found:
        verdict = (
            Text("passed", style="green") if f.passed else Text(f"{f.found}\nexpected: {f.expected}" if f.mend else f.found, style="red")
        )
        result.add_row(f.name, verdict, Text("" if f.passed else f.mend))
    return result
