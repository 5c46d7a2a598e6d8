"""Compares the published forms: every shipped estimator, in the loss and in the reward, for KL(pi||ref)."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from align.audit.certificate import Certificate, audit
from align.audit.default_recipe import default_recipe
from align.audit.show import STYLES, number, percent, table_of
from align.config import nodes, registry
from align.config.docstrings import keys
from align.config.refusals import regularizer_refusal
from align.oracle.enumeration import ONE_TOKEN


def forms() -> list[Certificate]:
    """One certificate for each meaningful form, on-policy and after a stale update, named like `k3 in the loss`."""
    found = []
    for name in registry.shipped("estimator"):
        if any(key.required for key in keys(registry.resolve("estimator", name, name))):
            continue
        for placement in ("loss", "reward"):  # a link is computed, not estimated
            form = nodes.build_part("regularizer", {"estimator": name, "placement": placement, "coefficient": 1.0}, name)
            refusal = regularizer_refusal(form, default_recipe(form))
            if refusal is None or refusal.biased:
                found.append(audit(form, f"{name} in the {placement}"))
    return found


def show(certificates: Sequence[Certificate], out: Console) -> None:
    """Print gradient error and cosine of a single token, on-policy and one update later, and the verdict."""
    table = table_of("form", "on-policy", "cosine", "variance", "one update ago", "cosine", "variance", "verdict", right=range(1, 7))
    for c in certificates:
        row = [
            text
            for stale in (False, True)
            for m in c.measurements
            if (m.problem, m.stale) == (ONE_TOKEN.name, stale)
            for text in (percent(m.error).lstrip("+"), number(m.cosine), number(m.variance))
        ]
        reason = "" if c.verdict == "exact" else f": {c.reason.partition(' (')[0]}"
        table.add_row(c.name, *row, Text.assemble((c.verdict, STYLES[c.verdict]), reason))
    out.print(table)
    out.print(
        Text(
            "relative error of the gradient of KL(pi||ref) on a vocabulary of 6, by enumeration; `sampled` is k3 with the ratio",
            style="dim",
        )
    )
