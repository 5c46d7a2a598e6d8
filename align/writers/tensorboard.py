from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from align.config.parts import Setting
from align.writers import RunningWriter, Writer, missing

SHOWN = ("prompt", "response", "reward", "finished")
"""Columns of the table of samples."""


@dataclass(frozen=True)
class TensorBoard(Writer):
    """TensorBoard: every metric a scalar under its name, the recipe as text; `tensorboard --logdir runs` shows all runs side by side.

    A resumed run adds a file to the same folder. That file opens with the step it begins at, and TensorBoard drops what earlier
    files have from there on, so no step is shown twice.
    """

    def refuse(self, setting: Setting) -> str | None:
        return missing("tensorboard")

    def open(self, folder: Path, run: str, recipe: Mapping[str, Any], done: int) -> RunningWriter:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (an optional package)

        writer = SummaryWriter(str(folder), purge_step=done + 1 if done else 0)
        writer.add_text("recipe", f"```yaml\n{yaml.safe_dump(dict(recipe), sort_keys=False)}```", done)
        return _Files(writer)


class _Files(RunningWriter):
    def __init__(self, writer: Any):
        self._writer = writer

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        # The file is written by a thread, which otherwise would tell of its failure steps later, and lose two minutes in a kill.
        self._writer.flush()

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        lines = ["| " + " | ".join(SHOWN) + " |", "|" + "---|" * len(SHOWN)]
        lines += ["| " + " | ".join(_cell(row[name]) for name in SHOWN) + " |" for row in rows]
        self._writer.add_text("samples", "\n".join(lines), step)

    def close(self, finished: bool) -> None:
        self._writer.close()


def _cell(value: Any) -> str:
    """The value as code in a Markdown table: what a model wrote is neither markup nor the end of a row."""
    text = str(value).replace("`", "'").replace("|", "\\|").replace("\n", " ").replace("\r", " ")
    return f"`{text}`"
