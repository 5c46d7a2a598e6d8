"""What a stage has found so far, on disk after every entry: a stage that is cut leaves what it has."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LAST_LINES = 12
"""Of a traceback or a log."""


def write_json(path: Path, value: Any) -> None:
    """The whole file or none of it, also where the process is killed meanwhile."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.write_text(json.dumps(value, indent=1))
    os.replace(unfinished, path)


def last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])


class Findings:
    """`found`: values by name, as JSON holds them. `failed`: the last lines of tracebacks by name."""

    def __init__(self, folder: Path, name: str):
        self.folder = folder
        """For whatever else the stage writes."""
        self.found: dict[str, Any] = {}
        self.failed: dict[str, str] = {}
        self._path = folder / f"{name}.json"

    def put(self, name: str, value: Any) -> None:
        self.found[name] = value
        print(name, json.dumps(value), flush=True)
        self._write()

    def fail(self, name: str, why: str) -> None:
        self.failed[name] = last_lines(why)
        print(f"{name} FAILED\n{why}", flush=True)
        self._write()

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """A part of a stage whose failure is recorded, and does not keep the next part from running."""
        try:
            yield
        except Exception:
            self.fail(name, traceback.format_exc())

    def _write(self) -> None:
        write_json(self._path, {"found": self.found, "failed": self.failed})
