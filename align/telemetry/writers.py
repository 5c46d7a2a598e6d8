"""Metrics files: one JSON object per line, flushed at once, and valid JSON for any metric value."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from align.disk import writing
from align.errors import UserError


def finite(value: Any) -> Any:
    """The same data as valid JSON values: NaN and infinities become null, tensors and numpy numbers become floats."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, in order; nulls become None. A last line that a crash cut short is left out.

    Raises: UserError for any other line that is not a JSON object with a `step`.
    """
    lines = path.read_text().split("\n")
    # Text after the last newline is empty or incomplete.
    complete = lines[:-1]
    records = []
    for number, line in enumerate(complete, start=1):
        try:
            record = json.loads(line)
            record["step"]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}:{number}: not a line of metrics ({error!r}); delete the line, or start in another folder") from error
        records.append(record)
    return records


class Metrics:
    """`metrics.jsonl` of a run."""

    def __init__(self, path: Path, first_step: int):
        """Opens for appending. Drops lines with `step >= first_step`, which the resumed run writes again.

        Raises: WriteFailed for a full disk, as `write` does.
        """
        kept = [r for r in read(path) if r["step"] < first_step] if path.exists() else []
        unfinished, self._path = path.with_name(f"{path.name}.new"), path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text("".join(json.dumps(r) + "\n" for r in kept))
            os.replace(unfinished, path)
            self._file = path.open("a")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        with writing(self._path):
            self._file.write(json.dumps({"step": step} | finite(metrics), allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        # What is still in the buffer is a line that `write` could not write, and has reported.
        with suppress(OSError):
            self._file.close()


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """`summary.json`: the final numbers of a run."""
    with writing(path):
        path.write_text(json.dumps(finite(summary), indent=2, allow_nan=False) + "\n")
