"""Ends and stops processes of short runs at random points, resumes what ended, and counts what came of it.

A disturbed run must end with the numbers and the weights of the undisturbed one, bit for bit.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file
from torch import equal

from helpers import command
from helpers.models import tiny_model

STEPS = 12
ACTORS = {"learner": "ray::LearnerActor", "rollout": "ray::RolloutActor", "reward": "ray::RewardActor"}
ROLES = ("driver", *ACTORS)
ENDING = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STOPPED_SECONDS = 1.0
LIMIT_SECONDS = 240.0
"""A leg that takes longer hangs."""
TIMED = ("time", "memory", "tokens/s", "sync", "bytes")
"""Metrics that begin so differ between two runs of one recipe."""


class Disturbance(NamedTuple):
    """One signal to one process of a run."""

    role: str
    signal: signal.Signals
    """SIGSTOP is followed by SIGCONT after STOPPED_SECONDS."""
    steps: int
    """Steps before it; 0 is from the start of the command on."""
    seconds: float
    """Waited after that step."""


class Outcome(NamedTuple):
    disturbance: Disturbance
    hit: bool
    """Whether the process was there to be disturbed."""
    code: int | None
    """Exit code of the leg that it ended; 0 if the run went on; None if it hung."""
    lost: int
    """Steps that were done and had to be done again."""


class Run(NamedTuple):
    backend: str
    outcomes: list[Outcome]
    wrong: list[str]
    """What differs from the undisturbed run, or was told badly; empty if nothing."""


def plan(runs: int, seed: int) -> list[tuple[str, list[Disturbance]]]:
    """For each of `runs` runs in one process two disturbances; for every fourth of them a run on Ray, with one of each role."""
    drawn = random.Random(seed)
    found = [("local", _disturbances(drawn, ["driver"] * 2)) for _ in range(runs)]
    for _ in range(max(runs // 4, 1)):
        found.append(("ray", _disturbances(drawn, drawn.sample(ROLES, len(ROLES)))))
    return found


def _disturbances(drawn: random.Random, roles: Sequence[str]) -> list[Disturbance]:
    steps = sorted(drawn.randrange(STEPS + 1) for _ in roles)
    # A worker of Ray ends by SIGTERM as by SIGKILL, and ignores SIGINT.
    endings = {role: ENDING if role == "driver" else ENDING[:2] for role in roles}
    kinds = [signal.SIGSTOP if drawn.random() < 0.25 else drawn.choice(endings[role]) for role in roles]
    return [Disturbance(*each, drawn.uniform(0, 0.15)) for each in zip(roles, kinds, steps, strict=True)]


class Runs:
    """The runs of one recipe in a folder, in this machine's processes; `address` is a cluster that a process in `parent` has started."""

    def __init__(self, folder: Path, address: str):
        self.folder, self.address = folder, address
        tiny_model(folder / "model")
        (folder / "recipe.yaml").write_text(json.dumps(_recipe(folder / "model")))
        self.expected = folder / "undisturbed"
        assert self._wait(self._start("local", self.expected, False)) == 0, self._said(self.expected)

    def disturbed(self, number: int, backend: str, disturbances: Sequence[Disturbance]) -> Run:
        """Run, disturb, and resume until the run has ended."""
        out, left, run = self.folder / f"run_{number}", list(disturbances), Run(backend, [], [])
        for _ in range(len(disturbances) + 1):
            legs = _legs(out)
            process = self._start(backend, out, _kept(out) > 0)
            hits = self._disturb(process, out, left)
            code = self._wait(process)
            began = _legs(out) > legs
            run.wrong.extend(self._told(out, hits, code, began))
            done = _lines(out) - _kept(out) if began and code != 0 else 0
            # The last one ended the leg, if any did.
            run.outcomes.extend(Outcome(*each, code if each is hits[-1] else 0, done if each is hits[-1] else 0) for each in hits)
            if code in (0, None):
                break
        run.wrong.extend(self._differences(out))
        return run

    def _start(self, backend: str, out: Path, resume: bool) -> BaseProcess:
        options = ["--address", self.address] if backend == "ray" else []
        arguments = ["train", "recipe.yaml", f"workers.backend={backend}", "--no-check", "--out", str(out), *options]
        return command.start([*arguments, *(["--resume"] if resume else [])], self.folder, Path(f"{out}_output"))

    def _wait(self, process: BaseProcess) -> int | None:
        process.join(LIMIT_SECONDS)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        return code

    def _disturb(self, process: BaseProcess, out: Path, left: list[Disturbance]) -> list[tuple[Disturbance, bool]]:
        """Those of `left` that came while the process lived, taken from it, and whether each met a process."""
        hits, give_up = [], time.monotonic() + LIMIT_SECONDS
        while left and process.is_alive() and time.monotonic() < give_up:
            if _lines(out) < left[0].steps:
                time.sleep(0.005)
                continue
            time.sleep(left[0].seconds)
            hits.append((left[0], _hit(left[0], process)))
            left.pop(0)
            # One that ends the run leaves the others to the next leg.
            process.join(0.2 if hits[-1][1] else 0)
        return hits

    def _said(self, out: Path) -> str:
        file = Path(f"{out}_output", "stderr")
        return file.read_text() if file.is_file() else ""  # a process that ended before it began to write

    def _told(self, out: Path, hits: Sequence[tuple[Disturbance, bool]], code: int | None, began: bool) -> list[str]:
        """What is wrong with how a leg ended, which began to work in its folder or did not."""
        said = self._said(out)
        by_hand = {
            signal.SIGKILL: {-signal.SIGKILL},
            signal.SIGTERM: {128 + signal.SIGTERM, -signal.SIGTERM},  # before the imports are done it ends as any program
            signal.SIGINT: {130, 1, -signal.SIGINT},
        }
        allowed = {0}
        for disturbance, _ in hits:
            if disturbance.signal is not signal.SIGSTOP:
                allowed |= {"driver": by_hand[disturbance.signal], "learner": {2}}.get(disturbance.role, set())
        found = [] if code is None or code in allowed else [f"exit code {code}: {said[-300:]}"]
        if "Traceback" in said and code != 1:
            found.append(f"a traceback: {said[-1000:]}")
        if began and code in (2, 130, 143) and _kept(out) and "--resume" not in said:
            found.append(f"what was kept is not told: {said[-300:]}")
        if "--resume" in said and not _kept(out):
            found.append("--resume is told without a checkpoint")
        return found

    def _differences(self, out: Path) -> list[str]:
        if not (out / "summary.json").is_file():
            return ["it did not come to its end"]
        found = ["metrics differ"] if _numbers(out) != _numbers(self.expected) else []
        weights = [load_file(folder / "model" / "model.safetensors") for folder in (out, self.expected)]
        same = weights[0].keys() == weights[1].keys() and all(equal(t, weights[1][name]) for name, t in weights[0].items())
        return found if same else [*found, "weights differ"]


def table(runs: Sequence[Run], backend: str) -> str:
    """The counts of one backend, a line each."""
    found = [run for run in runs if run.backend == backend]
    outcomes = [o for run in found for o in run.outcomes]
    hits = [o for o in outcomes if o.hit]
    roles = Counter(o.disturbance.role for o in hits if o.disturbance.signal is not signal.SIGSTOP)
    rows = {
        "runs": len(found),
        "processes killed": ", ".join(f"{role} {count}" for role, count in roles.items()) or "none",
        "stopped for a while": sum(o.disturbance.signal is signal.SIGSTOP for o in hits),
        "too early or too late": sum(not o.hit for o in outcomes),
        "survived": sum(o.code == 0 for o in hits),
        "resumed or started again": sum(o.code not in (0, None) for o in hits),
        "steps lost": f"{sum(o.lost for o in hits)} (most at once {max((o.lost for o in hits), default=0)})",
        "wrong results": sum(bool(run.wrong) for run in found),
        "hangs": sum(o.code is None for o in outcomes),
    }
    return "\n".join([f"chaos on {backend}", *(f"  {name:<26}{value}" for name, value in rows.items())])


def _hit(disturbance: Disturbance, process: BaseProcess) -> bool:
    """Send the signal. False if there is no process of the role."""
    pids = [process.pid] if disturbance.role == "driver" else _actors(os.getpid(), ACTORS[disturbance.role])
    if not pids:
        return False
    try:
        os.kill(pids[0], disturbance.signal)
        if disturbance.signal is signal.SIGSTOP:
            time.sleep(STOPPED_SECONDS)
            os.kill(pids[0], signal.SIGCONT)
    except ProcessLookupError:
        return False
    return True


def _recipe(model: Path) -> dict:
    return {
        "steps": STEPS,
        "task": {"name": "countdown", "size": 24},
        "algorithm": "grpo",
        "reward": "countdown_wordy",
        "model": {"path": str(model)},
        "batch": {"prompts": 4, "samples": 3},
        "sampling": {"max_tokens": 6},
        "optimizer": {"lr": 1e-2, "schedule": "linear"},
        "engine": {"name": "transformers", "max_batch": 6},
        "regularizers": {
            "kl": {
                "coefficient": {"name": "adaptive", "target": 0.01, "initial": 0.1, "horizon": 40.0},
                "reference": {"name": "ema", "rate": 0.3},
            }
        },
        "workers": {"cpus": 0.1, "threads": 1, "rollout": 1},
        "evaluation": {"every": 5, "problems": 2, "samples": 2},
        "checkpoint": {"every": 3},
    }


def _lines(out: Path) -> int:
    """Steps whose metrics were written."""
    file = out / "metrics.jsonl"
    return file.read_text(errors="replace").count('"loss/policy"') if file.is_file() else 0


def _legs(out: Path) -> int:
    file = out / "history.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0


def _kept(out: Path) -> int:
    return max((int(path.name[5:]) for path in (out / "checkpoints").glob("step_*")), default=0)


def _numbers(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(TIMED)} for line in lines]


def _actors(parent: int, title: str) -> list[int]:
    """The processes below `parent` whose title begins so."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_text(errors="replace")
            except OSError:
                continue
    below, waiting = [], [parent]
    while waiting:
        children = [pid for pid, of in parents.items() if of == waiting[-1]]
        waiting.pop()
        below += children
        waiting += children
    return [pid for pid in below if titles[pid].startswith(title)]
