"""Whatever stops a run, the steps it has learned are kept, one line says what happened, and the run can go on."""

import errno
import json
import os
import resource
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.bandit_run import kept, node, start
from typer.testing import CliRunner

from align.cli import app
from align.errors import UserError, WriteFailed
from align.learner.learner import Learner
from align.learner.policy import Policy
from align.run import checkpoints
from align.telemetry.writers import Metrics
from align.workers.local import LocalWorkers

OWN = """
from typing import Any
import torch
from align.algorithms.grpo import Grpo
from align.config.nodes import part
from align.references import Reference, RunningReference
from align.regularizers import Penalty
from align.writers import RunningWriter
from helpers_systematic import ByToken, OnePrompt, RunningSystematic, Systematic

def late(step):
    if step >= 2:
        raise RuntimeError("my bug")

class Beta:
    def beta(self, step, state):
        late(step)
        return 0.1

class Update:
    def beta(self, step, state): return 0.1
    def initial_state(self): return {"n": 0}
    def update(self, state, divergence, rollouts):
        late(state["n"])
        return {"n": state["n"] + 1}

class Weighting:
    def weights(self, batch, name):
        late(batch.step)
        return torch.ones(len(batch.seq_ids))

class Advantage:
    needs = frozenset({"rewards"})
    def advantages(self, batch):
        late(batch.step)
        return batch.rewards[batch.seq_ids]

class Shaping:
    def rewards(self, batch, rewards):
        late(batch.step)
        return rewards

class Loss(Grpo):
    def loss(self, ctx, advantages):
        late(ctx.batch.step)
        return super().loss(ctx, advantages)

class Reg:
    coefficient: Any = part("coefficient", 0.1)
    def penalty(self, ctx, name):
        late(ctx.batch.step)
        return Penalty(value=ctx.logp.detach(), loss=ctx.logp)

class Exits:
    def weights(self, batch, name):
        if batch.step >= 2:
            raise SystemExit(3)
        return torch.ones(len(batch.seq_ids))

class RunningLate(RunningReference):
    def parameters(self): return {n: p.detach().clone() for n, p in self.policy.trained()}
    def before_batch(self):
        self.seen = getattr(self, "seen", 0) + 1
        late(self.seen - 1)

class RunningNothing(RunningReference):
    def parameters(self): return None

class Nothing(Reference):
    def start(self, policy): return RunningNothing(policy)

class Late(Reference):
    def start(self, policy): return RunningLate(policy)

class Running(RunningSystematic):
    def generate(self, prompts, samples, seeds):
        late(self.version)
        return super().generate(prompts, samples, seeds)

class Engine(Systematic):
    def start(self, model_dir, sampling, max_prompt_tokens): return Running(model_dir, sampling)

class Short(RunningSystematic):
    def generate(self, prompts, samples, seeds):
        return super().generate(prompts, samples - (self.version == 2), seeds)

class ShortEngine(Systematic):
    def start(self, model_dir, sampling, max_prompt_tokens): return Short(model_dir, sampling)

class Judged(OnePrompt):
    seen = []
    def judge(self, suite, groups):
        self.seen.append(1)
        late(len(self.seen))
        return {}
"""
KL = "regularizers.kl"
PARTS = {
    "Beta": ({"regularizers": {"kl": {"coefficient": "MINE:Beta"}}}, f"{KL}.coefficient"),
    "Update": ({"regularizers": {"kl": {"coefficient": "MINE:Update"}}}, f"{KL}.coefficient"),
    "Weighting": ({"regularizers": {"kl": {"coefficient": 0.1, "weighting": "MINE:Weighting"}}}, f"{KL}.weighting"),
    "Exits": ({"regularizers": {"kl": {"coefficient": 0.1, "weighting": "MINE:Exits"}}}, f"{KL}.weighting"),
    "Advantage": ({"algorithm": {"name": "grpo", "advantage": "MINE:Advantage"}}, "algorithm.advantage"),
    "Shaping": ({"shapings": {"mine": "MINE:Shaping"}}, "shapings.mine"),
    "Loss": ({"algorithm": "MINE:Loss"}, "algorithm"),
    "Reg": ({"regularizers": {"kl": "MINE:Reg"}}, KL),
    "Late": ({"regularizers": {"kl": {"coefficient": 0.1, "reference": "MINE:Late"}}}, f"{KL}.reference"),
    "Engine": ({"engine": "MINE:Engine"}, "engine"),
}
LEARNED = {"Update": 3}
"""Steps that were learned, where it is not two: the update of a coefficient comes after that of the policy."""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    plugin = Path(__file__).parents[2] / "helpers" / "plugins" / "systematic.py"
    (tmp_path / "helpers_systematic.py").write_text(plugin.read_text())
    (tmp_path / "mine.py").write_text(OWN)
    return f"{tmp_path}/mine.py"


def with_own(changes: object, mine: str):
    return json.loads(json.dumps(changes).replace("MINE", mine))


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_raises_late(name: str, tmp_path: Path, mine: str):
    changes, key = PARTS[name]
    with pytest.raises(UserError) as stop:
        start(tmp_path, **with_own(changes, mine))
    said = "SystemExit: 3" if name == "Exits" else "RuntimeError: my bug"
    assert str(stop.value).startswith(f"{key}: {mine}:") and f"{said}; `align check {mine}:{name}`" in str(stop.value)
    assert "\n" not in str(stop.value)
    assert kept(tmp_path) == [f"step_{LEARNED.get(name, 2):06d}"]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_run_goes_on_after_the_part_is_mended(tmp_path: Path, mine: str):
    changes = with_own(PARTS["Weighting"][0], mine)
    with pytest.raises(UserError):
        start(tmp_path, **changes)
    Path(mine).write_text(OWN.replace("if step >= 2:", "if False:"))
    assert start(tmp_path, resume=True, **changes)["resumed_from"] == 2


def test_an_engine_with_too_few_answers(tmp_path: Path, mine: str):
    with pytest.raises(
        UserError, match=r"^engine: .*mine\.py:\d+: Short\.generate returned 3 episodes for the prompt 0, must be a list of 1"
    ):
        start(tmp_path, engine=f"{mine}:ShortEngine")
    assert kept(tmp_path) == ["step_000002"]


def test_an_evaluation_that_raises(tmp_path: Path, mine: str):
    with pytest.raises(UserError, match=r"^task: .*mine\.py:\d+: RuntimeError: my bug"):
        start(tmp_path, task=f"{mine}:Judged", evaluation={"every": 1, "problems": 1})
    assert kept(tmp_path) == ["step_000001"]


def test_a_reference_without_parameters(tmp_path: Path, mine: str):
    with pytest.raises(
        UserError, match=rf"^{KL}\.reference: .*mine\.py:\d+: RunningNothing\.parameters returned None, must be a dict of tens"
    ):
        start(tmp_path, regularizers={"kl": {"coefficient": 0.1, "reference": f"{mine}:Nothing"}})


def after(method, calls: int, error: BaseException):
    """`method`, which raises instead of its `calls`-th call."""
    done = []

    def wrapped(self, *args):
        done.append(1)
        if len(done) == calls:
            raise error
        return method(self, *args)

    return wrapped


@pytest.mark.parametrize("method", ["generate", "compute_rewards", "publish"])
def test_a_defect_of_the_workers_keeps_a_checkpoint_and_its_traceback(method: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(LocalWorkers, method, after(getattr(LocalWorkers, method), 3, ZeroDivisionError("a defect")))
    with pytest.raises(ZeroDivisionError):
        start(tmp_path)
    assert kept(tmp_path) == ["step_000003" if method == "publish" else "step_000002"]


def test_an_update_that_is_cut_short_is_not_kept(tmp_path: Path, monkeypatch):
    def step(self, *args):
        raise ZeroDivisionError("in the middle of it")

    monkeypatch.setattr("align.learner.mixed_precision_adamw.MasterAdamW.step", step)
    with pytest.raises(ZeroDivisionError):
        start(tmp_path)
    assert kept(tmp_path) == []


FULL = OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def files_of_at_most(size: int):
    """A file system that takes no more than this from one file, as a full disk or a quota does. In bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path: Path):
    start(tmp_path, steps=2)
    with files_of_at_most(20_000), pytest.raises(WriteFailed) as stop:
        start(tmp_path, resume=True)
    assert str(stop.value).count("\n") == 0 and "cannot be written: File too large" in str(stop.value)
    assert kept(tmp_path) == ["step_000002"]


def test_a_model_that_does_not_fit_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch):
    export = Policy.export

    def small(self, folder):
        with files_of_at_most(20_000):
            export(self, folder)

    monkeypatch.setattr(Policy, "export", small)
    with pytest.raises(WriteFailed, match=r"^the model .*/run/model cannot be written: File too large"):
        start(tmp_path, steps=2)
    assert kept(tmp_path) == ["step_000002"]


def test_metrics_that_do_not_fit_keep_a_checkpoint(tmp_path: Path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file, self.lines = file, 0

        def write(self, text):
            self.lines += 1
            if self.lines == 3:
                raise FULL
            self.file.write(text)

        def flush(self):
            self.file.flush()

        def close(self):
            self.file.close()
            raise FULL

    opened = Metrics.__init__

    def init(self, *args):
        opened(self, *args)
        self._file = Full(self._file)

    monkeypatch.setattr(Metrics, "__init__", init)
    with pytest.raises(WriteFailed, match=r"metrics\.jsonl cannot be written: No space left on device; free some space, then resume$"):
        start(tmp_path)
    assert kept(tmp_path) == ["step_000003"]


def test_a_summary_that_does_not_fit(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Learner, "reference_info", lambda self: {"long": "x" * 30_000})
    write = Path.write_text

    def small(self, text, *args, **options):
        if self.name == "summary.json":
            raise FULL
        return write(self, text, *args, **options)

    monkeypatch.setattr(Path, "write_text", small)
    with pytest.raises(WriteFailed, match=r"summary\.json cannot be written"):
        start(tmp_path, steps=1)
    assert kept(tmp_path) == ["step_000001"]


# The folder is tried before anything is loaded


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("taken", "taken is a file: choose a folder"),
        ("taken/run", "no file can be written there: Not a directory"),
        ("/proc/mine", "no file can be written there: No such file or directory"),
        ("x" * 300, "no file can be written there: File name too long"),
        ("dangling", "no file can be written there: File exists"),
        ("other", "other is not empty: choose another folder with --out"),
    ],
)
def test_a_folder_that_cannot_be_written(out: str, says: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("taken").touch()
    Path("dangling").symlink_to("nowhere")
    Path("other").mkdir()
    Path("other/notes.txt").touch()
    found = CliRunner().invoke(app, ["train", "countdown_grpo", "--out", out])
    assert found.exit_code == 2 and says in found.stderr and found.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling", "other", "taken"]


def test_a_folder_without_permission(tmp_path: Path, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("align.run.folder.tempfile.NamedTemporaryFile", refuse)
    found = CliRunner().invoke(app, ["train", "countdown_grpo", "--out", str(tmp_path / "a" / "b")])
    assert found.exit_code == 2 and "no file can be written there: Permission denied; give another folder" in found.stderr
    assert list(tmp_path.iterdir()) == []


# What the command says


def in_cli(tmp_path: Path, **changes):
    (tmp_path / "run.yaml").write_text(json.dumps(node(tmp_path / "start", **changes)))
    return CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")])


def test_the_command_ends_with_what_was_kept_and_how_to_go_on(tmp_path: Path, mine: str):
    start(tmp_path, steps=0)
    (tmp_path / "run").rename(tmp_path / "other")
    found = in_cli(tmp_path, **with_own(PARTS["Weighting"][0], mine))
    error, remains = found.stderr.splitlines()
    assert found.exit_code == 2 and error.startswith(f"{KL}.weighting: {mine}:")
    assert remains == (
        f"Kept: {tmp_path}/run/checkpoints/step_000002 and the metrics. To go on: "
        f"align train {tmp_path}/run.yaml --out {tmp_path}/run --resume"
    )


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")])
def test_the_end_of_a_job_is_a_stop_by_hand(number: int, name: str, tmp_path: Path, monkeypatch):
    start(tmp_path, steps=0)
    (tmp_path / "run").rename(tmp_path / "other")
    update = Learner.update

    def stopped(self, batch, step):
        if step == 1:
            signal.raise_signal(number)
        return update(self, batch, step)

    monkeypatch.setattr(Learner, "update", stopped)
    before = signal.getsignal(number)
    found = in_cli(tmp_path)
    assert found.exit_code == 128 + number and found.stderr.startswith(f"Stopped by {name}. Kept: ")
    assert kept(tmp_path) == ["step_000002"] and signal.getsignal(number) is before


def test_every_kept_checkpoint_is_complete(tmp_path: Path, mine: str):
    with pytest.raises(UserError):
        start(tmp_path, **with_own(PARTS["Reg"][0], mine))
    assert checkpoints.continue_hint(tmp_path / "run", "go") is not None
    assert checkpoints.continue_hint(tmp_path, "go") is None
