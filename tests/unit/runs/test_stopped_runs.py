"""What a run that is stopped leaves behind: a checkpoint labelled by what the learner has learned, or none."""

import json
import signal
from pathlib import Path

import pytest
from helpers.bandit_run import kept, start

from align.errors import RunStopped, UserError
from align.learner.learner import Learner
from align.run.changes import changes
from align.telemetry import Telemetry
from align.workers.local import LocalWorkers

FAILING = """
from align.rewards import Reward

class Counting(Reward):
    def __init__(self):
        self.seen = 0

    def score(self, prompt, response):
        self.seen += 1
        if AFTER <= self.seen <= UNTIL:
            return "7"
        return float(len(response)) + self.seen % 2

class Failing:
    def start(self):
        return Counting()

    def score(self, prompt, response):
        raise NotImplementedError("start it")
"""


def after(method, calls: int, error: BaseException):
    """`method`, which raises once it has done its work for the `calls`-th time."""
    done = []

    def wrapped(self, *args):
        result = method(self, *args)
        done.append(1)
        if len(done) == calls:
            raise error
        return result

    return wrapped


@pytest.mark.parametrize("error", [RunStopped("the engines are gone"), KeyboardInterrupt()], ids=["stopped", "by hand"])
def test_a_step_that_was_learned_is_not_learned_again(tmp_path: Path, monkeypatch, error: BaseException):
    monkeypatch.setattr(LocalWorkers, "publish", after(LocalWorkers.publish, 2, error))
    with pytest.raises(type(error)):
        start(tmp_path)
    assert kept(tmp_path) == ["step_000002"]


def test_a_refused_update_leaves_the_state_before_it(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Learner, "compute_logprobs", after(Learner.compute_logprobs, 2, RunStopped("the loss is nan")))
    with pytest.raises(RunStopped):
        start(tmp_path)
    assert kept(tmp_path) == ["step_000001"]


def broken(calls: int):
    """`Learner._stop_unless_finite`, which finds the loss of the `calls`-th update not finite."""
    done = []

    def stop(self, losses, step):
        done.append(step)
        if len(done) == calls:
            raise RunStopped(f"step {step}: the loss is nan")

    return stop


THRICE = {"algorithm": {"name": "grpo", "epochs": 3}, "regularizers": {"kl": {"coefficient": 0.1}}, "checkpoint": {"keep": 9}}


@pytest.mark.parametrize(("calls", "label", "updates"), [(3, 1, 2), (4, 1, 3), (5, 2, 4), (6, 2, 5), (12, 4, 11)])
def test_updates_of_a_batch_before_the_refused_one_are_kept_and_not_applied_again(
    tmp_path: Path, monkeypatch, calls: int, label: int, updates: int
):
    with monkeypatch.context() as breaking:
        breaking.setattr(Learner, "_stop_unless_finite", broken(calls))
        with pytest.raises(RunStopped):
            start(tmp_path, **THRICE)
    assert kept(tmp_path) == [f"step_{label:06d}"]
    update, resumed = Learner.update, []
    monkeypatch.setattr(
        Learner, "update", lambda self, batch, step: (resumed.append((step, self.version, self.updates)), update(self, batch, step))[1]
    )
    start(tmp_path, resume=True, **THRICE)
    assert resumed == [(step, step, updates + 3 * (step - label)) for step in range(label, 4)]
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def pressed(times: int):
    """`Learner.update`, during whose second call Ctrl-C is pressed so often."""

    def update(self, *args, calls=[]):  # noqa: B006  (the count is shared on purpose)
        calls.append(1)
        for _ in range(times if len(calls) == 2 else 0):
            signal.raise_signal(signal.SIGINT)
        return ORIGINAL(self, *args)

    return update


ORIGINAL = Learner.update


@pytest.fixture
def listening():
    """Ctrl-C is heard: a shell starts what it puts into the background deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_for_the_update_it_falls_into(tmp_path: Path, monkeypatch, listening):
    monkeypatch.setattr(Learner, "update", pressed(1))
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    assert kept(tmp_path) == ["step_000002"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_step_that_was_learned_before_the_stop_has_its_metrics(tmp_path: Path, monkeypatch, listening):
    """Ctrl-C falls into the update, or between it and the line of metrics."""
    for number, (place, owner) in enumerate((("update", Learner), ("publish", LocalWorkers))):
        method, calls = getattr(owner, place), []

        def ring(self, *args, method=method, calls=calls):
            found = method(self, *args)
            calls.append(1)
            if len(calls) == 2:
                signal.raise_signal(signal.SIGINT)
            return found

        folder = tmp_path / str(number)
        folder.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(owner, place, ring)
            with pytest.raises(KeyboardInterrupt):
                start(folder)
        assert kept(folder) == ["step_000002"]
        start(folder, resume=True)
        lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [0, 1, 2, 3]


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path, monkeypatch, listening):
    monkeypatch.setattr(Learner, "update", pressed(2))
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    assert kept(tmp_path) == []


def test_an_update_cut_short_by_hand_is_not_kept(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Learner, "update", after(Learner.update, 2, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    assert kept(tmp_path) == []


def test_a_run_killed_before_its_export_is_finished_by_a_resume(tmp_path: Path, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(Learner, "export", after(lambda self, folder: None, 1, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path)
    start(tmp_path, resume=True)
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    with pytest.raises(UserError, match="has already done 4 of 4 steps"):
        start(tmp_path, resume=True)


@pytest.mark.parametrize("stopped", ["before", "after"])
def test_an_evaluation_between_steps_is_not_lost_at_a_resume(tmp_path: Path, monkeypatch, stopped: str):
    """The run ends after two steps, before it writes the evaluation that is due then, or after."""
    evaluation, write = {"every": 2, "problems": 1, "samples": 2}, Telemetry.evaluation

    def stops(self: Telemetry, step: int, metrics):
        if stopped == "after" or step == 0:
            write(self, step, metrics)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr(Telemetry, "evaluation", stops)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path, evaluation=evaluation)
    assert kept(tmp_path) == ["step_000002"]
    start(tmp_path, resume=True, evaluation=evaluation)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if any(name.startswith("eval/") for name in line)] == [0, 2, 4]


def failing(folder: Path, after: int, until: int) -> str:
    file = folder / f"failing_{after}.py"
    file.write_text(FAILING.replace("AFTER", str(after)).replace("UNTIL", str(until)))
    return f"{file}:Failing"


@pytest.mark.parametrize(("after", "until", "step", "label"), [(1, 999, 0, 0), (5, 999, 3, 1), (9, 999, 4, 2)])
def test_a_reward_that_only_fails_stops_the_run(tmp_path: Path, after: int, until: int, step: int, label: int):
    """Four answers a step: at once in the first step, else after the third step in a row."""
    with pytest.raises(RunStopped, match=rf"step {step}: the reward failed for every answer of .*prompt 0: .*`align check REWARD`"):
        start(tmp_path, reward=failing(tmp_path, after, until), steps=6)
    assert kept(tmp_path)[0] == f"step_{label:06d}"


@pytest.mark.parametrize(("after", "until"), [(5, 12), (5, 15)], ids=["two steps", "all but one answer of the third"])
def test_a_reward_that_recovers_does_not(tmp_path: Path, after: int, until: int):
    start(tmp_path, reward=failing(tmp_path, after, until), steps=5)


def test_a_failed_reward_that_counts_as_a_score_does_not(tmp_path: Path):
    start(tmp_path, reward=failing(tmp_path, 1, 999), reward_limits={"on_failure": "score"})


KL = {"kl": {"coefficient": {"name": "adaptive", "target": 1.0}}}


def test_a_resume_tells_what_it_changes(tmp_path: Path, capsys):
    start(tmp_path, steps=1, regularizers=KL)
    capsys.readouterr()
    start(
        tmp_path,
        resume=True,
        steps=2,
        seed=3,
        regularizers={"kl": {"coefficient": {"name": "adaptive", "target": 2.0}}},
        checkpoint={"every": 1},
        evaluation={"every": 0, "problems": 1},
    )
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resuming with")]
    assert told == ["resuming with seed: 0 -> 3", "resuming with regularizers.kl.coefficient.target: 1.0 -> 2.0"]
    start(tmp_path, resume=True, steps=3, seed=3, regularizers={"kl": {"coefficient": {"name": "adaptive", "target": 2.0}}})
    assert "resuming with" not in capsys.readouterr().out


@pytest.mark.parametrize("kept", [True, False], ids=["checkpoint", "none"])
@pytest.mark.parametrize(("schedule", "told"), [("constant", []), ("linear", ["0.008"]), ("cosine", ["0.00903"])])
def test_steps_that_stretch_the_schedule_are_told(tmp_path: Path, schedule: str, told: list[str], kept: bool):
    node = {"steps": 10, "optimizer": {"lr": 0.01, "schedule": schedule}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(node))
    if kept:
        (tmp_path / "checkpoints" / "step_000010").mkdir(parents=True)
        (tmp_path / "checkpoints" / "step_000010" / "driver.json").touch()
    assert changes(tmp_path, node) == []
    found = changes(tmp_path, node | {"steps": 50})
    assert found == [f"steps: 10 -> 50, which stretches the {schedule} schedule: lr is {lr} now, not 0.001" for lr in told]


@pytest.mark.parametrize("left", ["{}", "steps: many", "steps:"])
def test_a_damaged_recipe_of_the_folder_is_told(left: str, tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(left)
    with pytest.raises(UserError, match=r"recipe\.yaml is damaged: it names no steps; put it back"):
        changes(tmp_path, {"steps": 3})


def test_another_part_is_told_as_a_whole_and_what_is_gone_too(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(
        "steps: 9\nalgorithm: {name: grpo, epochs: 1}\nregularizers: {kl: {coefficient: 0.1}}\nworkers: {backend: ray}\n"
    )
    node = {"steps": 2, "algorithm": {"name": "ppo", "epochs": 4}, "regularizers": {}, "workers": {"backend": "local"}, "reward": None}
    assert changes(tmp_path, node) == [
        'algorithm: {"name": "grpo", "epochs": 1} -> {"name": "ppo", "epochs": 4}',
        'regularizers.kl: {"coefficient": 0.1} -> null',
    ]
