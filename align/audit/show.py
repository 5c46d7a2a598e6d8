"""Certificates as tables for a terminal, and as JSON data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.audit import rollouts
from align.audit.certificate import Certificate
from align.oracle.measure import Measurement
from align.telemetry import units
from align.telemetry.writers import finite

STYLES = {"exact": "green", "bounded": "yellow", "biased": "red", "refused": "red", "no claim": "yellow"}
COLUMNS = ("problem", "answers", "value", "bias", "std/mean", "gradient error", "cosine", "variance")


def data(certificates: Sequence[Certificate]) -> list[dict[str, Any]]:
    """Certificates as JSON values; numbers that are not finite become null."""
    return [finite(dataclasses.asdict(c) | {"passes": c.passes}) for c in certificates]


def show(certificates: Sequence[Certificate], out: Console) -> None:
    """Print a table and a verdict for each certificate, and then the meaning of the columns."""
    if not certificates:
        out.print("No regularizer: nothing to audit.")
        return
    for certificate in certificates:
        out.print(Text.assemble((certificate.name, "bold"), f"  {certificate.form}"))
        table = table_of(*COLUMNS, right=range(2, len(COLUMNS)))
        for m in certificate.measurements:
            table.add_row(*cells(m))
        out.print(table)
        out.print(verdict(certificate))
        out.print()
    out.print(
        Text(
            "value in nats an answer, bias and gradient against the exact divergence, variance of one answer's gradient over "
            "|g|^2; at weighting and coefficient 1, over every answer",
            style="dim",
        )
    )


def show_run(run_dir: Path, as_json: bool, out: Console) -> None:
    """Print a run's regularizer metrics, and the estimators on new answers of its final model (or why there are none)."""
    rows, measured = rollouts.logged_metrics(run_dir), rollouts.estimates_of_fresh_answers(run_dir)
    if not as_json:
        _show_run(rows, measured, out)
        return
    found = [vars(row) for row in measured] if isinstance(measured, list) else measured
    print(json.dumps(finite({"logged": [vars(row) for row in rows], "fresh": found}), indent=2))


def _show_run(logged: Sequence[rollouts.Logged], fresh: Sequence[rollouts.Estimated] | str, out: Console) -> None:
    table = table_of("metric", "first", "last", "mean", "largest", "unit", right=range(1, 5))
    for row in logged:
        numbers = (units.show(row.name, x) for x in (row.first, row.last, row.mean, row.largest))
        table.add_row(row.name, *numbers, units.unit(row.name).label)
    out.print(table)
    if isinstance(fresh, str):
        out.print(f"No fresh answers: {fresh}.", markup=False)
        return
    out.print()
    table = table_of("divergence", "estimate", "nats/token", "off", "std/mean", right=range(2, 5))
    for row in fresh:
        table.add_row(row.divergence, row.estimator, number(row.mean), percent(row.off), number(row.spread))
    out.print(table)
    out.print(
        Text(
            "the final model against the initial one, on its own answers to held-out prompts; off and std/mean against `exact` on "
            "the same tokens, so that off is sampling noise",
            style="dim",
        )
    )


def table_of(*columns: str, right: Sequence[int]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i in right else "left")
    return table


def verdict(certificate: Certificate) -> Text:
    """The verdict as one paragraph."""
    text = Text.assemble("  ", (certificate.verdict, STYLES[certificate.verdict]), f": {certificate.reason}")
    if certificate.verdict == "biased":
        text.append(
            "; allowed by allow_biased: true"
            if certificate.passes
            else f". A recipe refuses it: {certificate.refusal}"
            if certificate.refusal
            else ""
        )
    return text


def cells(m: Measurement) -> tuple[str, ...]:
    return (
        m.problem,
        "one update ago" if m.stale else "on-policy",
        number(m.value),
        percent(m.value_bias),
        number(m.value_spread),
        percent(m.error).lstrip("+"),
        number(m.cosine),
        number(m.variance),
    )


def number(x: float) -> str:
    """Three digits; a rounding error becomes 0, and a non-finite number a dash."""
    if not math.isfinite(x):
        return "-"
    if abs(x) < 1e-9:
        return "0"
    return f"{x:.3g}" if abs(x) < 0.01 else f"{x:.3f}" if abs(x) < 100 else f"{x:,.0f}"


def percent(x: float) -> str:
    return "-" if not math.isfinite(x) else "0" if abs(x) < 1e-9 else f"{x:+.1%}"
