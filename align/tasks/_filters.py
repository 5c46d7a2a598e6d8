"""Leaves out rows by the value, the text or the length of a field."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from align.config.suggestions import did_you_mean
from align.errors import UserError
from align.tasks._fields import known
from align.tasks._rows import Row

Accepts = Callable[[Any], bool]


class Filter(NamedTuple):
    field: str
    accepts: Accepts
    """Of the field's value, None where a row has none."""


def parsed(given: Mapping[str, Any] | None) -> list[Filter]:
    """The filters of a recipe's `filter`. Raises ValueError for a condition that there is not, or of the wrong type."""
    return [Filter(field, _accepts(field, wanted)) for field, wanted in (given or {}).items()]


def applied(filters: Sequence[Filter], rows: list[Row], path: str) -> tuple[list[Row], list[str]]:
    """The rows that pass all filters, and a line for each filter with the number of rows that it leaves out, in the recipe's order.

    Raises UserError for a field that no row has, and if no row is left.
    """
    notes, total = [], len(rows)
    for field, accepts in filters:
        known(path, rows, "filter", field)
        kept = [row for row in rows if accepts(row.values.get(field))]
        notes.append(f"{path}: task.filter.{field} leaves out {len(rows) - len(kept):,} of {total:,} rows")
        if not kept:
            raise UserError(f"{notes[-1]}, so none is left; the first has {field}: {rows[0].values.get(field)!r:.60}")
        rows = kept
    return rows, notes


def _accepts(field: str, wanted: Any) -> Accepts:
    if wanted != wanted:
        raise ValueError(f"filter.{field}: no value equals nan: write null for the rows without {field}")
    if isinstance(wanted, Mapping):
        conditions = [_condition(field, name, value) for name, value in wanted.items()]
        return lambda value: all(condition(value) for condition in conditions)
    return (lambda value: value in wanted) if isinstance(wanted, list | tuple) else (lambda value: value == wanted)


def _condition(field: str, name: str, limit: Any) -> Accepts:
    where = f"filter.{field}.{name}"
    if name not in CONDITIONS:
        raise ValueError(f"{where}: no such condition; {did_you_mean(name, CONDITIONS)}There are: {', '.join(CONDITIONS)}")
    kind, make = CONDITIONS[name]
    if not isinstance(limit, kind) or isinstance(limit, bool) or limit != limit:
        raise ValueError(f"{where} must be {'a regular expression' if kind is str else 'a number'}, not {limit!r}")
    try:
        return make(limit)
    except re.error as error:
        raise ValueError(f"{where}: {limit!r} is no regular expression: {error}") from error


def _matches(pattern: str) -> Accepts:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.search(value) is not None


def _not_matches(pattern: str) -> Accepts:
    matches = _matches(pattern)
    return lambda value: not matches(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


CONDITIONS: dict[str, tuple[Any, Callable[[Any], Accepts]]] = {
    "matches": (str, _matches),
    "not_matches": (str, _not_matches),
    "min": (int | float, lambda limit: lambda value: _number(value) and value >= limit),
    "max": (int | float, lambda limit: lambda value: _number(value) and value <= limit),
    "min_length": (int, lambda limit: lambda value: isinstance(value, str | list) and len(value) >= limit),
    "max_length": (int, lambda limit: lambda value: isinstance(value, str | list) and len(value) <= limit),
}
"""By name: the type of the limit, and the test. Lengths are of characters, or of a list's entries."""
