"""Rows of a measurement as a table: ratios beside the figures they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kernel_bench.jobs import BY_HAND, JOBS
from kernel_bench.providers import FLOOR

COLUMNS = (
    "provider",
    "ms",
    "quartiles",
    "/ own logp",
    "/ best other",
    "of floor",
    f"/ {BY_HAND}",
    "peak MiB",
    "loss error",
    "dX error",
    "dW error",
)


def groups(result: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The rows of each shape and job, in the order measured."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        found.setdefault((row["shape"], row["job"]), []).append(row)
    return found


def lines(result: dict[str, Any]) -> dict[tuple[str, str], list[tuple[str, ...]]]:
    """By shape and job, one line a provider, fastest first; COLUMNS says what is in it.

    `/ own logp`: against the same provider's log-prob at that shape, with a frozen head where the job has one. `/ best other`: against
    the fastest that is not ours. `of floor`: the share of the time that the unavoidable work takes. `/ hand-written`: a generated kernel
    against the one written by hand, in the same form.
    """
    grouped = groups(result)
    own = {(shape, job, row["provider"]): row["ms"] for (shape, job), rows in grouped.items() for row in rows}
    return {
        (shape, job): [_line(row, rows, own.get((shape, JOBS[job].beside, row["provider"]))) for row in sorted(rows, key=_order)]
        for (shape, job), rows in grouped.items()
    }


def _order(row: dict[str, Any]) -> tuple[bool, float]:
    return row["ms"] is None, row["ms"] or 0.0


def _line(row: dict[str, Any], rows: Sequence[dict[str, Any]], own_logp: float | None) -> tuple[str, ...]:
    if row["failed"]:
        return (row["provider"], row["failed"], *[""] * (len(COLUMNS) - 2))
    floor = next((r["ms"] for r in rows if r["provider"] == FLOOR), None)
    others = [r["ms"] for r in rows if r["ms"] and not r["provider"].startswith(("ours", BY_HAND, FLOOR))]
    by_hand = next((r["ms"] for r in rows if r["provider"] == row["provider"].replace("ours", BY_HAND) != row["provider"]), None)
    if row["provider"] == FLOOR:
        floor = own_logp = None
        others = []
    return (
        row["provider"],
        f"{row['ms']:.3g}",
        f"{row['ms_low']:.3g}-{row['ms_high']:.3g}",
        f"{row['ms'] / own_logp:.2f}" if own_logp else "",
        f"{row['ms'] / min(others):.2f}" if others else "",
        f"{floor / row['ms']:.0%}" if floor else "",
        f"{row['ms'] / by_hand:.2f}" if by_hand else "",
        f"{row['peak_mib']:.1f}",
        *("" if row[k] is None else f"{row[k]:.0e}" for k in ("loss_error", "hidden_error", "weight_error")),
    )


def markdown(result: dict[str, Any]) -> str:
    """Every table, for a terminal or a page."""
    out = [f"{result['device']}, torch {result['torch']}, {result['threads']} threads, {result['dtype']}, drift {result['drift']:g}"]
    for (shape, job), table in lines(result).items():
        out += ["", f"**{job}, {shape}** (tokens x width x vocabulary)", ""]
        out += ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
        out += ["| " + " | ".join(line) + " |" for line in table]
    return "\n".join(out)
