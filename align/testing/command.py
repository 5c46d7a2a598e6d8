"""What `align check` does: find out what kind of part is meant, run its kit, and show the findings."""

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
    """The kind of part that `what` names (a name, or `file.py:Class`), and what its kit found.

    Args: given: its keys, `key=value`; model: the folder an engine or a reference is checked on; prompts: a JSONL file of prompts
    with the fields a reward judges by. Raises UserError where there is no such part, or an option has nothing to do with it.
    """
    kind = kind or kind_of(what)
    if kind not in CHECKS:
        catalogue(kind)  # which raises where there is no such kind at all
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
    """A table of the checks, and how many failed."""
    out.print(Text(f"{title}\n", style="bold"))
    out.print(table(found))
    out.print(f"\n{len(found)} checks, {sum(not f.passed for f in found)} failed")


def table(found: Sequence[Finding]) -> Table:
    """A line a check; what failed says what was expected and how to mend it."""
    result = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("check", "result", "how to mend"):
        result.add_column(column, no_wrap=column == "check", overflow="fold")
    for f in found:
        verdict = (
            Text("passed", style="green") if f.passed else Text(f"{f.found}\nexpected: {f.expected}" if f.mend else f.found, style="red")
        )
        result.add_row(f.name, verdict, Text("" if f.passed else f.mend))
    return result
