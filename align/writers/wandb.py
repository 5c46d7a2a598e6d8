from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from align.config.parts import Setting
from align.writers import RunningWriter, Writer, missing

SHOWN = ("step", "prompt", "response", "reward", "finished", "length")
"""Columns of the table of samples."""
MODES = ("online", "offline", "disabled")


@dataclass(frozen=True)
class Wandb(Writer):
    """Weights & Biases: one run there for one run here, with the recipe as its config.

    Its id is kept in the run's folder: a resumed run goes on in the same one, and steps that W&B has are not sent again. An offline
    run needs no account; `wandb sync` uploads its parts in order. One that was killed offline beyond its last checkpoint had no time
    to note what it had written, so its parts may share steps.
    """

    project: str = "align"
    entity: str | None = None
    """Team or user; null: that of the account."""
    group: str | None = None
    """Runs that W&B shows together, such as the seeds of one recipe."""
    mode: str = "online"
    """online (after `wandb login`), offline (into the run's folder) or disabled."""

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if not self.project:
            raise ValueError("project must be a name")

    def refuse(self, setting: Setting) -> str | None:
        return missing("wandb")

    def open(self, folder: Path, run: str, recipe: Mapping[str, Any], done: int) -> RunningWriter:
        wandb = import_module("wandb")  # optional, and takes seconds; a type checker without it takes this very file for it

        kept = folder / "run.json"
        known = json.loads(kept.read_text()) if done and kept.exists() else {"id": None, "sent": -1}
        # A warm start has a run of its own while this one is open (create_new). A live table is no log (console).
        opened = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group,
            mode=self.mode,
            id=known["id"],
            resume="allow",
            name=run,
            config=dict(recipe),
            dir=str(folder),
            reinit="create_new",
            settings=wandb.Settings(console="off"),
        )
        return _Run(opened, kept, known["sent"])


class _Run(RunningWriter):
    """`kept` is the file with the run's id and the last step that was sent, `sent`; -1 before the first."""

    def __init__(self, run: Any, kept: Path, sent: int):
        self._run, self._kept, self._step = run, kept, sent
        # The server has its own count of steps. Offline there is only what was noted when the part before was closed.
        self._first = sent + 1 if run.offline else run.step
        self._keep()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        if step >= self._first:
            self._run.log(dict(metrics), step=step)
            self._step = step

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        if step >= self._first and rows:
            table = import_module("wandb").Table(columns=list(SHOWN), data=[[row[name] for name in SHOWN] for row in rows])
            self._run.log({"samples": table}, step=step)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
        self._keep()

    def _keep(self) -> None:
        self._kept.write_text(json.dumps({"id": self._run.id, "sent": self._step}) + "\n")
