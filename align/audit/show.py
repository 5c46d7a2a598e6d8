"""Certificates as tables for a terminal, and as data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.audit.certificate import Certificate
from align.audit.measure import Measurement
from align.telemetry.writers import finite

STYLES = {"exact": "green", "bounded": "yellow", "biased": "red", "refused": "red", "no claim": "yellow"}
COLUMNS = ("problem", "answers", "value", "bias", "std/mean", "gradient error", "cosine", "variance")


def data(certificates: Sequence[Certificate]) -> list[dict[str, Any]]:
    """JSON values; what is not finite is null."""
    return [finite(dataclasses.asdict(c) | {"passes": c.passes}) for c in certificates]


def show(certificates: Sequence[Certificate], out: Console) -> None:
    """A table and a verdict for each, and below what the columns are."""
    if not certificates:
        out.print("No regularizer: nothing to audit.")
        return
    for certificate in certificates:
        out.print(Text.assemble((certificate.name, "bold"), f"  {certificate.form}"))
        table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
        for column in COLUMNS:
            table.add_column(column, justify="left" if column in ("problem", "answers") else "right")
        for m in certificate.measurements:
            table.add_row(*cells(m))
        out.print(table)
        out.print(verdict(certificate))
        out.print()
    out.print(Text("value in nats an answer, bias and gradient against the exact divergence, variance of one answer's gradient over "
                   "|g|^2; at weighting and coefficient 1, over every answer", style="dim"))


def verdict(certificate: Certificate) -> Text:
    """One paragraph."""
    text = Text.assemble("  ", (certificate.verdict, STYLES[certificate.verdict]), f": {certificate.reason}")
    if certificate.verdict == "biased":
        text.append("; allowed by allow_biased: true" if certificate.passes else
                    f". A recipe refuses it: {certificate.refusal}" if certificate.refusal else "")
    return text


def cells(m: Measurement) -> tuple[str, ...]:
    return (m.problem, "one update ago" if m.stale else "on-policy", number(m.value), percent(m.value_bias), number(m.value_spread),
            percent(m.error).lstrip("+"), number(m.cosine), number(m.variance))


def number(x: float) -> str:
    """Three digits; a rounding error is 0, and what is not finite a dash."""
    return "-" if not math.isfinite(x) else "0" if abs(x) < 1e-9 else f"{x:.3g}" if abs(x) < 0.01 else f"{x:.3f}" if abs(x) < 100 else f"{x:,.0f}"


def percent(x: float) -> str:
    return "-" if not math.isfinite(x) else "0" if abs(x) < 1e-9 else f"{x:+.1%}"
