"""Prints the answers that a run has kept: the output of `align show`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.text import Text

from align.errors import UserError
from align.run.samples import FOLDER, HELD_OUT, TRAINING, Row, records
from align.telemetry.units import show as number

MAPS = ("reward_parts", "beta", "log_ratio", "divergence")
RED = 160
"""How much of green and blue the most expensive token loses, of 255."""


def show(run_dir: Path, step: int | None, orders: Sequence[str], count: int, tokens: str | None, console: Console) -> None:
    """Args: orders: at most one of `best`, `worst` and `changed`. Raises UserError."""
    if len(orders) > 1:
        raise UserError(f"give one of {' and '.join(f'--{word}' for word in orders)}")
    if "changed" not in orders:
        print_answers(chosen(run_dir, step, next(iter(orders), None), count), console, tokens)
    elif step is not None or tokens is not None:
        raise UserError("--changed compares evaluations, whose answers have no --step and no --tokens")
    else:
        print_changes(changed(run_dir, count), console)


def recorded(run_dir: Path, kind: str) -> dict[int, Path]:
    """The files of the records by step, ascending. Raises UserError for a folder without kept answers."""
    folder = run_dir / FOLDER
    if not folder.is_dir():
        raise UserError(f"{run_dir} has no {FOLDER}: it is not the folder of a run, or the run was trained with samples.every=0")
    found = records(folder, kind)
    if not found:
        raise UserError(f"{folder} has no {kind.replace('_', '-')} answers: the run stopped before its first record, or has none")
    return found


def read(file: Path) -> list[Row]:
    """The rows of a record. Raises UserError for a damaged file."""
    try:
        rows = pq.read_table(file).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}; delete it to see the other records") from error
    return [row | {name: dict(row[name] or []) for name in MAPS} for row in rows]


def chosen(run_dir: Path, step: int | None, order: str | None, count: int) -> list[Row]:
    """Training answers of a step (None: the last record). `order`: `best` or `worst` reward first; None: both ends, best first."""
    files = recorded(run_dir, TRAINING)
    wanted = max(files) if step is None else step
    if wanted not in files:
        raise UserError(f"--step {wanted}: not recorded; the run kept {_listed(list(files))}. samples.every says how often")
    rows = sorted(read(files[wanted]), key=lambda row: _reward(row), reverse=True)
    if order is None and len(rows) > count:
        return [*rows[: count - count // 2], *rows[len(rows) - count // 2 :]]
    return (rows[::-1] if order == "worst" else rows)[:count]


def changed(run_dir: Path, count: int) -> list[tuple[Row, Row]]:
    """Held-out answers at the first and the last record, of the prompts whose mean reward changed most."""
    files = list(recorded(run_dir, HELD_OUT).values())
    if len(files) < 2:
        raise UserError(
            f"{run_dir} has one record of held-out answers, so there is nothing to compare: it needs an evaluation after training"
        )
    before, after = (
        {name: list(rows) for name, rows in groupby(read(file), lambda row: row["prompt_id"])} for file in (files[0], files[-1])
    )
    both = sorted(before.keys() & after.keys(), key=lambda name: abs(_mean(after[name]) - _mean(before[name])), reverse=True)
    return [(before[name][0], after[name][0]) for name in both[:count]]


def print_answers(rows: Sequence[Row], console: Console, tokens: str | None) -> None:
    """Args: tokens: the regularizer whose price colours the tokens; None: plain text."""
    for row in rows:
        console.print(_title(row))
        console.print(Text(row["prompt"], style="dim"))
        console.print(Text(row["response"]) if tokens is None else _coloured(row, tokens))
        for line in _prices(row):
            console.print(Text(f"  {line}", style="dim"))
        console.print()


def print_changes(pairs: Sequence[tuple[Row, Row]], console: Console) -> None:
    for before, after in pairs:
        console.print(Text(before["prompt"], style="bold"))
        for row in (before, after):
            reward = "" if row["reward"] is None else f"reward {number('reward', row['reward'])}  "
            console.print(Text(f"  after {row['step']} steps: {reward}", style="dim") + Text(row["response"], style="default"))
        console.print()


def _title(row: Row) -> Text:
    facts = [f"step {row['step']}", f"prompt {row['prompt_id']}", f"answer {row['answer']}"]
    if row["reward"] is not None:
        facts.append(f"reward {number('reward', row['reward'])}")
    facts += [f"{name} {number('reward', value)}" for name, value in row["reward_parts"].items()]
    if row["advantage"]:
        facts.append(f"advantage {number('advantage', _average(row['advantage']))}")
    facts.append(f"{row['length']} tokens" + ("" if row["finished"] else ", cut at the limit"))
    return Text("  ".join(facts), style="bold")


def _prices(row: Row) -> Iterator[str]:
    """A line for each regularizer: what it measured on the answer, and its coefficient."""
    for name, values in row["divergence"].items():
        beta = row["beta"].get(name)
        yield f"{name}: {number('divergence/', sum(values))} nats" + ("" if beta is None else f" x beta {number('beta/', beta)}")


def _coloured(row: Row, regularizer: str) -> Text:
    """The tokens, redder the more the regularizer measures at them. Raises UserError for a name without values."""
    values = row["divergence"].get(regularizer)
    if values is None:
        known = ", ".join(row["divergence"]) or "none: it was dropped, or the recipe has no regularizer"
        raise UserError(f"--tokens {regularizer}: the answer has no such penalty; it has {known}")
    most = max((abs(v) for v in values), default=0.0) or 1.0
    text = Text()
    for piece, value in zip(row["tokens"], values, strict=True):
        less = 255 - round(RED * min(abs(value) / most, 1.0))
        text.append(piece, style=f"black on rgb(255,{less},{less})")
    return text.append(f"  red: {number('divergence/', most)} nats", style="dim")


def _listed(steps: Sequence[int]) -> str:
    shown = [str(step) for step in steps]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:4], "...", *shown[-3:]])


def _reward(row: Mapping[str, Any]) -> float:
    return float("-inf") if row["reward"] is None else row["reward"]


def _mean(rows: Sequence[Row]) -> float:
    return _average([row["reward"] for row in rows if row["reward"] is not None])


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
