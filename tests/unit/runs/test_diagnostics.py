"""A run that learns little says why: each detector on made-up metrics, and the lines, the summary and the metrics of a run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import bandit_run
from helpers.built import answers
from helpers.models import tiny_tokenizer

from align.config import recipes
from align.errors import RunStopped
from align.run.diagnostics import Detector, Diagnostics
from align.run.diagnostics.before import before_the_run
from align.run.diagnostics.entropy import EntropyCollapse
from align.run.diagnostics.failing_rewards import FailingRewards
from align.run.diagnostics.kl_runaway import KLRunaway
from align.run.diagnostics.no_signal import NoSignal
from align.run.diagnostics.overfitting import Overfitting
from align.run.diagnostics.truncated import Truncated
from align.run.diagnostics.weightless import Weightless
from align.run.step_metrics import answer_metrics, reward_metrics, share_without_signal
from align.tasks import Example
from align.types import Rewards

GROUPS = torch.tensor([0, 0, 1, 1])


def told(detector: Detector, name: str, values: list[float], **others: float) -> list[int]:
    """The steps after which the detector reports something, given a metric's value at each."""
    return [step for step, value in enumerate(values) if detector.after(step, {name: value, **others})]


def test_no_signal_is_told_once_until_there_is_a_signal_again():
    assert told(NoSignal(True), "groups/no_signal", [1.0] * 7, **{"reward/mean": 0.0}) == [2]
    assert told(NoSignal(True), "groups/no_signal", [1, 1, 0.5, 1, 1, 1, 0.5, 1, 1, 1], **{"reward/mean": 0.0}) == [5, 9]
    assert told(NoSignal(True), "groups/no_signal", [0.9] * 12, **{"reward/mean": 0.0}) == [9]
    assert told(NoSignal(True), "groups/no_signal", [0.5] * 30, **{"reward/mean": 0.0, "grad/norm": 0.0}) == []


def test_no_signal_and_no_gradient_for_twenty_steps_stop_the_run():
    for norm, stops in ((0.0, [19]), (1e-9, [])):
        detector = NoSignal(True)
        found = [detector.after(step, {"groups/no_signal": 1.0, "reward/mean": 0.0, "grad/norm": norm}) for step in range(25)]
        assert [step for step, finding in enumerate(found) if finding and finding.stops] == stops


@pytest.mark.parametrize(
    ("rewards", "within", "over_all"), [([1.0] * 4, 1.0, 1.0), ([0.0, 0.0, 1.0, 1.0], 1.0, 0.0), ([0.0, 1.0, 1.0, 1.0], 0.5, 0.0)]
)
def test_a_difference_between_prompts_is_a_signal_for_a_critic_alone(rewards, within: float, over_all: float):
    batch = answers(torch.tensor(rewards), GROUPS)
    judged = Rewards(values=batch.rewards.numpy())
    assert reward_metrics(batch, judged, by_group=True)["groups/no_signal"] == within
    assert reward_metrics(batch, judged, by_group=False)["groups/no_signal"] == over_all


def test_a_group_that_lost_its_answers_does_not_count():
    assert share_without_signal(torch.tensor([0.0, 1.0]), torch.tensor([2, 2])) == 0


def test_the_other_detectors_report_once_at_the_third_step_in_a_row():
    assert told(EntropyCollapse(), "entropy", [2.0, 0.09, 0.2, 0.09, 0.09, 0.09, 0.01]) == [5]
    assert told(Truncated(8), "response/truncated", [0.6, 0.6, 0.4, 0.6, 0.6, 0.6, 0.6]) == [5]
    assert told(FailingRewards(), "reward/failed", [1.0, 1.0, 1.0, 1.0], answers=10.0) == [2]
    assert told(FailingRewards(), "reward/failed", [1.0, 1.0, 1.0], answers=11.0) == []
    assert told(KLRunaway(), "kl/ref/k3", [0.1, 1.1, 1.2, 1.3, 1.4]) == [3]
    assert told(KLRunaway(), "kl/ref/k3", [2.0] * 5) == []  # a reference that is another model


def test_a_weighting_that_is_0_everywhere_is_told_by_its_name():
    weighted = {"kl": {"coefficient": 0.1, "weighting": "difficulty"}, "plain": {"coefficient": 0.1}}
    detector = Weightless(recipes.build(bandit_run.node(Path("model"), regularizers=weighted)).regularizers)
    assert told(detector, "weighted/kl", [0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0]) == [5]
    detector.after(7, {"weighted/kl": 1.0})
    found = [detector.after(step, {"weighted/kl": 0.0}) for step in (8, 9, 10)][-1]
    assert "of regularizers.kl was 0 on every token" in found.text and "uniform" in found.text


def test_a_run_says_that_a_weighting_was_0(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "class Zero:\n    needs = frozenset()\n    def weights(self, batch, name):\n        return 0.0 * batch.positions\n"
    )
    summary = bandit_run.start(tmp_path, regularizers={"kl": {"coefficient": 0.1, "weighting": f"{tmp_path}/mine.py:Zero"}})
    assert any("regularizers.kl was 0 on every token" in text for text in summary["diagnostics"])
    assert [line["weighted/kl"] for line in lines(tmp_path / "run")] == [0.0] * 4


def test_a_rising_reward_with_a_falling_held_out_result():
    def found(rewards: list[float], results: list[float]) -> list[int]:
        detector, steps = Overfitting(), []
        for step, (reward, result) in enumerate(zip(rewards, results, strict=True)):
            detector.after(step, {"reward/mean": reward})
            if detector.evaluated(step + 1, {"a/length": 3.0, "a/pass@1": result, "b/pass@1": -step}):
                steps.append(step)
        return steps

    assert found([0.1, 0.2, 0.3, 0.4], [0.5, 0.48, 0.45, 0.46]) == [2]
    assert found([0.1, 0.2, 0.3, 0.4], [0.5, 0.52, 0.5, 0.52]) == []
    assert found([0.3, 0.2, 0.1, 0.05], [0.5, 0.4, 0.3, 0.2]) == []


def test_a_resumed_run_replays_its_metrics():
    diagnostics = Diagnostics([Truncated(8)])
    diagnostics.replay(
        [{"step": 0, "response/truncated": 1.0, "loss": None}, {"step": 1, "eval/a": 1}, {"step": 1, "response/truncated": 1.0}]
    )
    assert [finding.name for finding in diagnostics.after(2, {"response/truncated": 1.0})] == ["truncated"]


def found_before(examples: list[Example], **changes) -> list[str]:
    node = bandit_run.node(Path("model"), **changes)
    return [f.text for f in before_the_run(recipes.build(node), examples, tiny_tokenizer())]


def test_what_is_found_before_the_run():
    one, two = Example(id="0", text="1+1="), Example(id="1", text="2+2=")
    assert found_before([one, two]) == []
    assert "batch.prompts: a step takes 5 prompts and the task has 2" in found_before([one, two], batch={"prompts": 5, "samples": 4})[0]
    assert "1 of 2 examples repeat another one ('1+1=' comes 2 times)" in found_before([one, replace(one, id="2")])[0]
    assert "no token for 2 characters of 1 of 2 examples (x €)" in found_before([one, replace(two, text="2x€ ")])[0]
    assert "optimizer.warmup_steps: 5 steps" in found_before([one], optimizer={"warmup_steps": 5})[0]
    rising = {"kl": {"coefficient": {"name": "linear", "start": 0.1, "end": 0.2, "steps": 5}}}
    assert "regularizers.kl.coefficient: its schedule ends at step 5" in found_before([one], regularizers=rising)[0]
    rising["kl"]["coefficient"]["steps"] = 4
    assert found_before([one], regularizers=rising) == []


CONSTANT = "def constant(response):\n    return 1.0\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Four steps of a bandit whose reward is constant."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "mine.py").write_text(CONSTANT)
    bandit_run.start(folder, reward=f"{folder}/mine.py:constant")
    return folder / "run"


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_findings_are_in_the_summary_and_in_the_metrics(run: Path):
    found = json.loads((run / "summary.json").read_text())["diagnostics"]
    assert any("all answers to a prompt had the same reward (on average 1)" in text for text in found)
    assert any("were cut at sampling.max_tokens=1" in text for text in found)
    assert [line.get("diagnostics/no_signal") for line in lines(run)] == [None, None, 1.0, None]


def test_metrics_of_the_answers(run: Path):
    for step, line in enumerate(lines(run)):
        assert line["groups/no_signal"] == line["response/truncated"] == line["response/longest"] == 1.0
        assert line["epoch"] == step + 1 and line["answers"] == 4 and 0 < line["answers/distinct"] <= 1
        assert line["memory/driver"] > 1e6
    assert "answers" not in answer_metrics([], sampled=False)


FAILS_ONCE = (
    "COUNT = [0]\ndef fails(response):\n    COUNT[0] += 1\n    if 4 < COUNT[0] <= 8:\n        raise KeyError('x')\n    return 1.0\n"
)


def test_a_step_that_learned_nothing_has_its_line_and_counts(tmp_path: Path):
    (tmp_path / "mine.py").write_text(FAILS_ONCE)
    summary = bandit_run.start(tmp_path, reward=f"{tmp_path}/mine.py:fails")
    kept = lines(tmp_path / "run")
    assert [line["step"] for line in kept] == [0, 1, 2, 3] and summary["nothing_learned"] == 1
    assert kept[1]["reward/failed"] == 4 and "loss/policy" not in kept[1] and kept[1]["time/step"] > 0


def test_a_run_in_which_nothing_can_change_stops(tmp_path: Path):
    (tmp_path / "mine.py").write_text(CONSTANT)
    with pytest.raises(RunStopped, match=r"in 20 steps in a row .* the gradient was 0, so nothing is learned"):
        bandit_run.start(tmp_path, reward=f"{tmp_path}/mine.py:constant", steps=30)
    assert len(lines(tmp_path / "run")) == 20
    assert bandit_run.kept(tmp_path) == ["step_000020"]
