"""The `align` command in a process of its own, forked from one that has imported what a run imports: that takes longer than a tiny run."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

PRELOADED = [
    "align.cli",
    "align.train",
    "helpers.blank_plots",
    "helpers.quick_configs",
    "align.engines.transformers",
    "align.workers.cluster",
    "align.workers.local",
    "peft",
    "transformers.models.qwen2.modeling_qwen2",
]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(PRELOADED)


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def start(arguments: Sequence[str], folder: Path, output: Path) -> BaseProcess:
    """`align ARGUMENTS` in `folder`, its standard output and error written to the folder `output`."""
    output.mkdir(parents=True, exist_ok=True)
    process = FORKS.Process(target=_main, args=([str(a) for a in arguments], folder, output))
    process.start()
    return process


def run(arguments: Sequence[str], folder: Path, output: Path, timeout: float = 280) -> Done:
    process = start(arguments, folder, output)
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"align {' '.join(map(str, arguments))} took longer than {timeout:g} s")
    return Done(process.exitcode, *((output / name).read_text() for name in ("stdout", "stderr")))


def _main(arguments: list[str], folder: Path, output: Path) -> None:
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        with open(output / name, "w") as file:
            os.dup2(file.fileno(), number)
    sys.argv = ["align", *arguments]
    from align.cli import main
    from helpers import blank_plots, quick_configs

    blank_plots.install()
    quick_configs.install()
    main()
