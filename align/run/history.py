"""`history.jsonl`: one line for each leg of a run, from a start or a resume to its end, with everything that its numbers depend on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from align.config import nodes
from align.config.schema import Recipe
from align.disk import writing
from align.errors import UserError
from align.run.folder import HISTORY, PLUGINS
from align.run.installed import packages
from align.run.signals import Terminated
from align.run.versions import versions
from align.tasks import Example

COMPARED = tuple(f.name for f in dataclasses.fields(Example) if f.compare)
PACKAGES = ("packages", "package {}: {} -> {}")
UNTOLD = "killed, or its machine died"


class Leg:
    """The line of this leg, which is written when it starts, when the data is read, and when it ends."""

    def __init__(self, run_dir: Path, recipe: Recipe, first_step: int, resumed: bool, changes: Sequence[str]):
        """Args: first_step: completed steps; changes: `KEY: OLD -> NEW` of the recipe. Raises WriteFailed."""
        self._file = run_dir / HISTORY
        self._lines = _lines(self._file)
        self.number = 1 + len(self._lines)
        self.before = _read(self._lines[-1]) if self._lines else None
        """The line of the leg before; None in the first leg, and if it cannot be read."""
        if self.before is not None and self.before.get("end") is None:
            self._lines[-1] = json.dumps(self.before | {"reason": UNTOLD})
        with writing(self._file):
            self.line: dict[str, Any] = {
                "leg": self.number,
                "start": _now(),
                "end": None,
                "reason": None,
                "resumed": resumed,
                "first_step": first_step,
                "command": shlex.join(sys.argv),
                "folder": str(Path.cwd()),
                "changes": list(changes),
                "versions": versions(),
                "commit": {"align": _commit(Path(__file__).parent), "folder": _commit(Path.cwd())},
                "plugins": _keep_plugins(recipe, run_dir / PLUGINS / f"leg_{self.number}"),
                "packages": packages(recipe),
                "data": None,
            }
            self._write()

    def changed(self) -> list[str]:
        """What differs from the leg before, besides the recipe and the data, in one line each."""
        if self.before is None:
            return []
        found = []
        for kind, each in (
            ("versions", "{}: {} -> {}"),
            ("commit", "commit of {}: {} -> {}"),
            ("plugins", "plugin {}: {} -> {}"),
            PACKAGES,
        ):
            old, new = self.before.get(kind) or {}, self.line[kind]
            found += [each.format(k, old.get(k), new.get(k)) for k in dict.fromkeys([*old, *new]) if old.get(k) != new.get(k)]
        return found

    def data(self, rows: Iterable[Example]) -> list[str]:
        """Write the hash of the task's rows. Returns one line if the rows of the leg before were others."""
        self.line["data"] = data_digest(rows)
        self._write()
        old = self.before and self.line["resumed"] and self.before.get("data")
        return [f"other data rows: {_data_text(old)} -> {_data_text(self.line['data'])}"] if old and old != self.line["data"] else []

    def ended(self, stop: BaseException | None) -> None:
        """Write the end and its reason. An error of the disk is ignored, so that it does not hide the exception that ended the run."""
        self.line |= {"end": _now(), "reason": reason(stop)}
        try:
            self._write()
        except UserError:
            if stop is None:
                raise

    def _write(self) -> None:
        with writing(self._file):
            unfinished = self._file.with_name(f"{self._file.name}.new")
            unfinished.write_text("".join(f"{line}\n" for line in (*self._lines, json.dumps(self.line))))
            os.replace(unfinished, self._file)


def reason(stop: BaseException | None) -> str:
    """Why a leg ended, in one line."""
    if stop is None:
        return "finished"
    if isinstance(stop, KeyboardInterrupt):
        return f"stopped by {stop}" if isinstance(stop, Terminated) else "stopped by hand"
    text = " ".join(str(stop).split())
    return text if isinstance(stop, UserError) else f"{type(stop).__name__}: {text}"


def data_digest(rows: Iterable[Example]) -> dict[str, Any]:
    """Number and hash of the rows; a row's place in a file is not part of it, its place among the rows is."""
    digest, count = hashlib.sha256(), 0
    for row in rows:
        digest.update(repr([getattr(row, name) for name in COMPARED]).encode("utf-8", "backslashreplace"))
        count += 1
    return {"rows": count, "sha256": digest.hexdigest()[:16]}


def _data_text(data: dict[str, Any]) -> str:
    return f"{data.get('rows')} rows ({data.get('sha256')})"


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text(errors="replace").split("\n") if line.strip()] if file.is_file() else []


def _read(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.cache
def _commit(folder: Path) -> str | None:
    """The commit of the working tree around a folder, with `-dirty` if tracked files have changed; None outside of one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _keep_plugins(recipe: Recipe, folder: Path) -> dict[str, str]:
    """Store the sources of the recipe's own files as text. Returns the hash of each by its path."""
    found = {}
    for number, plugin in enumerate(nodes.plugins_of(recipe)):
        for path, text in plugin.files.values():
            kept = folder / str(number) / os.path.relpath(path, plugin.root).replace("..", "_")
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(text, errors="backslashreplace")
            found[path] = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return found
