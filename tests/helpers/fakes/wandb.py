"""The part of wandb that align uses, taken down. Checked against wandb 0.31.0, offline and disabled: the runs of `test_writers.py` left
in the real package's files the rows that are here in `RUNS`, parts of a resumed run and two runs at once too. What the server does (a
resumed run begins at the step after its last one, and lower ones are dropped) is as its documentation says.
"""

from __future__ import annotations

import itertools
from typing import Any

RUNS: list[Run] = []
_ids = (f"run{n}" for n in itertools.count())


class Settings:
    def __init__(self, **given: Any):
        self.given = given


class Table:
    def __init__(self, columns: list[str], data: list[list[Any]]):
        self.columns, self.data = columns, data


class Run:
    def __init__(self, options: dict[str, Any]):
        self.options = options
        self.id = options["id"] or next(_ids)
        self.offline = options["mode"] == "offline"
        self.rows: dict[int, dict[str, float]] = {}
        self.exit_code: int | None = None
        before = [row for run in RUNS if run.id == self.id for row in run.rows] if options["mode"] == "online" else []
        self._first = max(before, default=-1) + 1

    @property
    def step(self) -> int:
        return max(self.rows, default=self._first)

    def log(self, data: dict[str, float], step: int) -> None:
        if step >= self.step:
            self.rows.setdefault(step, {}).update(data)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def init(
    *,
    project: str,
    entity: str | None,
    group: str | None,
    mode: str,
    id: str | None,
    resume: str,
    name: str,
    config: dict,
    dir: str,
    reinit: str,
    settings: Settings,
) -> Run:
    RUNS.append(
        Run(
            {
                "project": project,
                "entity": entity,
                "group": group,
                "mode": mode,
                "id": id,
                "resume": resume,
                "name": name,
                "config": config,
                "dir": dir,
                "reinit": reinit,
                "settings": settings.given,
            }
        )
    )
    return RUNS[-1]
