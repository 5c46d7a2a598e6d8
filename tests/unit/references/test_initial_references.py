"""References that begin as the policy: what the first batch finds, when each changes, and which could never differ."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from unit.references.learners import INITIAL, after_each_step, batch, logp_of, make, reference, reference_logp, trained

from align.errors import RecipeError, RunStopped
from align.learner.metric_accumulator import MetricAccumulator
from align.learner.references import stop_unless_initial
from align.references.frozen import Frozen


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("name", INITIAL)
def test_the_first_batch_finds_the_policy(folder: Path, name: str, lora: int):
    learner = make(folder, name, lora=lora)
    scored = batch(learner)
    torch.testing.assert_close(reference_logp(learner, scored), scored.old_logp, rtol=0, atol=1e-6)
    learner.update(scored, 0)
    later = batch(learner, 1)
    distance = (reference_logp(learner, later) - later.old_logp).abs().max()
    assert distance < 1e-6 if name == "behaviour" else distance > 1e-3


def test_an_adapter_that_the_reference_lacks_stops_the_run(folder: Path):
    learner = make(folder, "frozen", lora=4, estimator="sampled")
    for name, p in learner.policy.trained():  # as one loaded from elsewhere: B is not 0
        p.data += 0.05 if "lora_B" in name else 0
    before, scored = trained(learner), batch(learner)
    with pytest.raises(RunStopped, match=r"step 5: before the first update .* from the reference of regularizers\.kl \(frozen\)"):
        learner.update(scored, 5)
    assert all(torch.equal(p, before[n]) for n, p in learner.policy.trained())
    learner.version = 1
    learner.update(scored, 5)


def test_a_distance_that_is_no_number_stops_too():
    tally = MetricAccumulator()
    tally.add("kl/ref/k3", float("nan"), 1)
    with pytest.raises(RunStopped, match="before the first update the policy is nan nats"):
        stop_unless_initial({"kl": Frozen()}, "float32", ["kl"], tally, 0)


def test_another_model_as_reference_does_not_stop(folder: Path):
    for name in ("teacher", "checkpoint", "soup"):
        learner = make(folder, name)
        assert learner.update(batch(learner), 0)["kl/ref/k3"].mean > 1e-2


def test_the_average_counts_optimizer_steps(folder: Path):
    learner = make(folder, {"name": "ema", "rate": 0.25, "every": 2}, minibatches=4)
    start, seen = trained(learner), after_each_step(learner)
    stats = learner.update(batch(learner), 0)
    assert len(seen) == 4 and stats["ref/kl/version"].mean == learner.references["kl"].version == 2
    for name, value in learner.references["kl"].parameters().items():
        once = 0.75 * start[name] + 0.25 * seen[1][name]
        torch.testing.assert_close(value, 0.75 * once + 0.25 * seen[3][name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("lora", [0, 4])
def test_a_hard_reset_is_the_policy_of_that_step(folder: Path, lora: int):
    learner = make(folder, {"name": "hard_reset", "every": 3}, lora=lora)
    start, seen, held = trained(learner), after_each_step(learner), []
    for step in range(3):
        learner.update(batch(learner, step), step)
        held.append(learner.references["kl"].parameters())
    for copied, expected in zip(held, (start, seen[2], seen[5]), strict=True):
        assert copied.keys() == expected.keys() and all(torch.equal(copied[n], expected[n]) for n in expected)
    assert learner.references["kl"].version == 2


@pytest.mark.parametrize("name", ["ema", "hard_reset", "behaviour"])
def test_a_reference_that_moves_within_a_batch_is_compared_as_it_was_scored(folder: Path, name: str):
    node = {"name": name} | ({} if name == "behaviour" else {"every": 1})
    learner = make(folder, node, minibatches=1, algorithm={"epochs": 3})
    models = [copy.deepcopy(learner.policy.module)]
    step = learner.optimizer.step
    learner.optimizer.step = lambda: (step(), models.append(copy.deepcopy(learner.policy.module)))
    scored = batch(learner)
    stats = learner.update(scored, 0)
    tables = [logp_of(m, scored) for m in models]
    # The three updates see the policies of before the first, second and third step; the reference is the first throughout.
    expected = sum((t.exp() * (t - tables[0])).sum().item() for t in tables[:3]) / (3 * 12)
    assert expected > 1e-2
    assert stats["divergence/kl"].mean == pytest.approx(expected, rel=1e-3)


def test_one_that_can_never_differ_is_refused(folder: Path):
    always_at_it = ((reference(folder, "behaviour"), "starts at the reference"), ({"name": "hard_reset", "every": 1}, "the policy again"))
    for node, says in always_at_it:
        with pytest.raises(RecipeError, match=says) as refused:
            make(folder, node, minibatches=1)
        assert refused.value.where == "regularizers.kl.reference"
        make(folder, node, minibatches=2)
    make(folder, {"name": "hard_reset", "every": 2}, minibatches=1)
