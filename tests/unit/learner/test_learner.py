"""What the learner computes on real (tiny) transformers models."""

import math
from pathlib import Path

import pytest
import torch
from helpers.rollouts import groups
from transformers import AutoModelForCausalLM
from unit.learner.small import batch, capture_gradient, make, moved, parameters

from align.config.schema import Model
from align.experience.packing import pack
from align.learner.policy import Policy


def test_packed_hidden_states_are_those_of_each_sequence_alone(model: Path):
    policy, packed = Policy(str(model), Model(path=str(model))), pack(groups(), None)
    hidden = policy.hidden(packed)
    whole = AutoModelForCausalLM.from_pretrained(model)
    logp = torch.log_softmax(policy.head().logits(hidden, 1.0), -1).gather(1, packed.tokens[:, None]).squeeze(1)
    row = 0
    for group in groups():
        for episode in group.episodes:
            ids = torch.tensor([[*group.prompt.token_ids, *episode.trained_ids]])
            alone = torch.log_softmax(whole(ids).logits[0, :-1].float(), -1).gather(1, ids[0, 1:, None]).squeeze(1)
            expected = alone[len(group.prompt.token_ids) - 1 :]
            torch.testing.assert_close(logp[packed.seq_ids == row], expected, rtol=0, atol=1e-5)
            row += 1


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": {"name": "grpo", "reduction": "token"}},
        {"algorithm": {"name": "grpo", "reduction": "sequence_mean"}},
        {"algorithm": {"name": "grpo", "reduction": "constant"}},
    ],
)
def test_the_gradient_does_not_depend_on_micro_batches(model: Path, options: dict):
    regularizers = {
        "a": {"estimator": "exact", "coefficient": 0.1, "credit": "summed"},
        "b": {"divergence": "jensen_shannon", "coefficient": 0.2, "placement": "reward", "credit": "summed"},
    }
    steps = {}
    for micro_tokens in (10_000, 30, 1):
        learner = make(model, regularizers=regularizers, batch={"prompts": 4, "samples": 3, "micro_tokens": micro_tokens}, **options)
        for _, p in learner.policy.trained():  # away from the reference, where every divergence is 0
            p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        learner.version = 1  # and past the batch that must find it there
        gradient = capture_gradient(learner, batch(learner))
        steps[micro_tokens] = gradient
    for micro_tokens in (30, 1):
        for name, g in steps[10_000].items():
            torch.testing.assert_close(steps[micro_tokens][name], g, rtol=1e-4, atol=1e-7)


def test_a_penalty_pulls_alike_in_the_loss_and_in_the_reward(model: Path):
    in_loss, in_reward, without = (
        capture_gradient(learner, batch(learner))
        for learner in (
            moved(make(model, regularizers=regularizers))
            for regularizers in (
                {"kl": {"coefficient": 0.3, "placement": "loss", "divergence": "forward_kl"}},
                {"kl": {"coefficient": 0.3, "placement": "reward", "divergence": "forward_kl"}},
                {},
            )
        )
    )
    for name, g in in_loss.items():
        torch.testing.assert_close(in_reward[name], g, rtol=1e-4, atol=1e-6)
    assert any((in_loss[name] - g).abs().max() > 1e-3 for name, g in without.items())


def test_scores_are_in_the_order_of_the_batch(model: Path):
    """Micro-batches are cut by length, and their scores put back."""
    regularizers = {"kl": {"coefficient": 0.1, "estimator": "exact"}}
    learners = [
        moved(
            make(
                model,
                regularizers=regularizers,
                algorithm={"name": "grpo", "epochs": 2},
                batch={"prompts": 4, "samples": 3, "micro_tokens": n},
            )
        )
        for n in (10_000, 1)
    ]
    whole, cut = map(batch, learners)
    states = [learner.states.of(["kl"], scored)["kl"] for learner, scored in zip(learners, (whole, cut), strict=True)]
    for a, b in ((whole.old_logp, cut.old_logp), (whole.entropy, cut.entropy), states):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("reference", ["frozen", "ema"])
def test_the_divergence_to_an_initial_reference_starts_at_zero(model: Path, lora: int, reference: str):
    learner = make(
        model,
        model={"path": str(model), "lora": {"rank": lora}},
        regularizers={"kl": {"coefficient": 0.1, "reference": reference, "estimator": "exact"}},
    )
    first = learner.update(batch(learner), 0)
    assert first["divergence/kl"].mean == pytest.approx(0, abs=1e-6)
    second = learner.update(batch(learner, seed=1), 1)
    moved = second["divergence/kl"].mean
    assert moved > 1e-4 if reference == "frozen" else moved > 1e-7


def test_the_moving_average_reference_is_the_moving_average(model: Path):
    learner = make(model, regularizers={"kl": {"coefficient": 0.1, "reference": {"name": "ema", "rate": 0.25, "every": 2}}})
    start = parameters(learner)
    shadow = learner.references["kl"].parameters()
    learner.update(batch(learner), 0)
    assert all(torch.equal(shadow[n], start[n]) for n in start)
    learner.update(batch(learner, 1), 1)
    now = parameters(learner)
    for n in start:
        torch.testing.assert_close(shadow[n], 0.75 * start[n] + 0.25 * now[n], rtol=1e-6, atol=1e-7)


def test_equal_references_are_one(model: Path):
    learner = make(
        model,
        regularizers={
            "a": {"coefficient": 0.1},
            "b": {"coefficient": 0.1, "divergence": "forward_kl"},
            "c": {"coefficient": 0.1, "reference": "ema"},
        },
    )
    assert learner.references["a"] is learner.references["b"] is not learner.references["c"]


@pytest.mark.parametrize("form", [{}, {"placement": "reward"}, {"divergence": "pearson", "credit": "summed"}])
def test_a_coefficient_of_zero_measures_and_trains_nothing(model: Path, form: dict):
    plain, silent = make(model), make(model, regularizers={"kl": {"coefficient": 0.0, **form}})
    for step in range(2):
        stats, other = plain.update(batch(plain, step), step), silent.update(batch(silent, step), step)
        assert all(other[name] == stat for name, stat in stats.items()) and other["loss/reg/kl"].mean == 0
    assert other["divergence/kl"].mean > 0 and other["kl/ref/k3"].mean > 0
    assert all(torch.equal(p, q) for p, q in zip(parameters(plain).values(), parameters(silent).values(), strict=True))


def test_a_divergence_that_overflows_is_measured_without_harm(model: Path):
    learner = make(model, regularizers={"kl": {"coefficient": 0.0, "divergence": "neyman", "estimator": "exact"}})
    for p in learner.policy.trained():
        p[1].data *= 6.0
    learner.version = 1
    stats = learner.update(batch(learner), 0)
    assert math.isfinite(stats["grad/norm"].mean)


@pytest.mark.parametrize("estimator", ["sampled", "exact"])
def test_policy_and_reference_have_the_same_temperature(model: Path, estimator: str):
    learner = make(
        model,
        sampling={"max_tokens": 6, "temperature": 0.5},
        regularizers={"kl": {"coefficient": 0.1, "reference": "ema", "estimator": estimator}},
    )
    first = learner.update(batch(learner), 0)
    assert first["divergence/kl"].mean == pytest.approx(0, abs=1e-6) and first["kl/ref/k3"].mean == pytest.approx(0, abs=1e-6)


def test_the_divergence_told_is_that_of_an_answer(model: Path):
    learner = make(model, regularizers={"kl": {"coefficient": 0.1, "estimator": "exact"}})
    learner.update(batch(learner), 0)
    stats = learner.update(batch(learner, 1), 1)
    assert stats["divergence/kl"].count == 12
    assert stats["divergence/kl"].sum == pytest.approx(stats["kl/ref/exact"].sum, rel=1e-6)
