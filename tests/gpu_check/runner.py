"""Stages one after the other, each in a process of its own with its own limit, and what they found in one file."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_check.findings import last_lines, write_json
from gpu_check.plan import Stage

LEAST = 3.0
"""Seconds below which a stage is not begun: importing torch takes as long."""
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
"""Of every stage, where the user has set nothing else."""
DEVICES = {
    "cuda": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
    # No GPU, so that a rehearsal is the same everywhere; one thread, because more than there are free cores are slower.
    "cpu": {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
}
"""By device what its stages' processes get, whatever the user has set."""


def run(stages: Sequence[Stage], device: str, out: Path, limit: float, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """The results, which are also in `out/results.json` after each stage. Logs and other files are in `out/stages`.

    Args: limit: seconds for all stages; one that would begin after them is not run.
    """
    began = time.monotonic()
    folder = out / "stages"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    results: dict[str, Any] = {"device": device, "limit": limit, "seconds": 0.0, "stages": {}}
    for stage in stages:
        tell(f"{stage.name}: {stage.about}")
        left = limit - (time.monotonic() - began)
        result = run_stage(stage, device, folder, min(stage.limit, left))
        results["stages"][stage.name] = result
        results["seconds"] = round(time.monotonic() - began, 1)
        write_json(out / "results.json", results)
        tell(f"{stage.name}: {result['state']}, {result['seconds']} s" + (f": {result['why']}" if "why" in result else ""))
    return results


def run_stage(stage: Stage, device: str, folder: Path, limit: float) -> dict[str, Any]:
    """`state` passed, failed, cut or not run, with `seconds`, `found`, `failed` (tracebacks by case), and `why` it is not passed."""
    missing = [package for package in stage.needs if importlib.util.find_spec(package) is None]
    if missing:
        return _result("not run", why=f"{', '.join(missing)} is missing")
    if limit < LEAST:
        return _result("cut", why="no time was left to begin it")
    began, log = time.monotonic(), folder / f"{stage.name}.log"
    code = _exit_code(stage, device, folder, log, limit)
    seconds = time.monotonic() - began
    part = folder / f"{stage.name}.json"
    known = json.loads(part.read_text()) if part.is_file() else {"found": {}, "failed": {}}
    if code is None:
        return _result("cut", seconds, why=f"it reached its limit of {limit:.0f} s", **known)
    if known["failed"]:
        return _result("failed", seconds, why=f"failed: {', '.join(known['failed'])}", **known)
    if code:
        return _result("failed", seconds, why=f"its process ended with {code}:\n{last_lines(log.read_text(errors='replace'))}", **known)
    return _result("passed", seconds, **known)


def succeeded(results: dict[str, Any]) -> bool:
    """Every stage that could run came to its end without a failure."""
    return all(stage["state"] in ("passed", "not run") for stage in results["stages"].values())


def _result(state: str, seconds: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"state": state, "seconds": round(seconds, 1), "found": {}, "failed": {}} | more


def _exit_code(stage: Stage, device: str, folder: Path, log: Path, limit: float) -> int | None:
    """The exit code of the stage's process; None where it was stopped. What it has started ends with it."""
    command = [sys.executable, "-m", "gpu_check.child", stage.module, stage.name, device, str(folder)]
    environment = ENVIRONMENT | os.environ | DEVICES[device]
    with log.open("w") as written:
        process = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
