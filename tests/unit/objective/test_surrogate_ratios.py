"""What a surrogate multiplies an advantage by, and that a penalty in the reward has the gradient of the same penalty in the loss.

By enumeration in float64, off-policy, through the learner's own loss: `_of_policy` with a Composed regularizer in either place. The
bounds are wide, since a clip acts on the sum of advantage and penalty; CISPO's weight is bounded on purpose, as it keeps the gradient.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.built import algorithm, part
from helpers.enumeration import NAME, Problem
from torch import Tensor

from align.coefficients.constant import Constant
from align.config import recipes, registry
from align.core.credit import Packing
from align.divergences.hellinger import Hellinger
from align.divergences.reverse_kl import ReverseKl
from align.errors import RecipeError
from align.estimators.k1 import K1
from align.estimators.sampled import Sampled
from align.learner.metric_accumulator import MetricAccumulator
from align.learner.objective import total
from align.regularizers.composed import Composed
from align.weightings.uniform import Uniform

TREE = Problem(4, 3, end=1)
BETA = 0.3
WIDE: dict[str, dict[str, Any]] = {
    "clipped": {"clip_low": 0.999999, "clip_high": 1e6},
    "reinforce": {},
    "dual_clip": {"clip_low": 0.999999, "clip_high": 1e6, "ceiling": 1e9},
    "cispo": {"clip_low": 0.1, "clip_high": 0.2},
    "sapo": {"temperature": 0.8, "temperature_negative": 0.8},
    "sequence_clipped": {"clip_low": 0.999999, "clip_high": 1e6},
    "answer_clipped": {"clip_low": 0.999999, "clip_high": 1e6},
}
"""Keys under which nothing but CISPO's weight is bounded."""
OF_TOKENS = {"clipped", "reinforce", "dual_clip"}
"""Of those in `WIDE`, whose ratio is the token's own."""


def gradient(surrogate: str, placement: str, divergence: Any, credit: str, **keys: Any) -> Tensor:
    """Of the whole loss, [P, V]: the surrogate of advantages of both signs, and the penalty."""
    leaf, old = TREE.random(1).requires_grad_(), TREE.random(1) + 0.5 * TREE.random(3)
    ctx = TREE.context(leaf, old, TREE.random(2))
    advantages = torch.cos(torch.arange(len(ctx.batch.seq_ids), dtype=torch.float64) ** 2)
    ctx = replace(ctx, batch=replace(ctx.batch, advantages=advantages, betas={NAME: BETA}))
    term = Composed(
        divergence=divergence,
        estimator=Sampled(),
        coefficient=Constant(BETA),
        weighting=Uniform(),
        reference=None,
        placement=placement,
        credit=credit,
        **keys,
    )
    learner = algorithm("grpo", surrogate={"name": surrogate} | WIDE.get(surrogate, {}))
    learned = SimpleNamespace(algorithm=learner, regularizers={NAME: term})
    return torch.autograd.grad(total(learned, ctx, MetricAccumulator(), MetricAccumulator()), leaf)[0]


@pytest.mark.parametrize("keys", [{}, {"ratio_cap": 1.2}, {"clamp": 0.4}], ids=str)
@pytest.mark.parametrize("credit", ["local", "summed", "sequence"])
@pytest.mark.parametrize("divergence", [ReverseKl(), Hellinger()], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("surrogate", registry.shipped("surrogate"))
def test_a_penalty_pulls_alike_from_either_place(surrogate: str, divergence: Any, credit: str, keys: dict[str, Any]):
    in_loss, in_reward = (gradient(surrogate, placement, divergence, credit, **keys) for placement in ("loss", "reward"))
    assert (in_loss - in_reward).abs().max() < 1e-12 and in_loss.abs().max() > 1e-2


@pytest.mark.parametrize("surrogate", registry.shipped("surrogate"))
def test_it_is_minus_the_slope_of_the_loss_per_unit_of_advantage(surrogate: str):
    """For advantages of either sign; what is not the token's own ratio differs from it."""
    at = Packing(torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 0, 1]))
    log_rho = torch.tensor([0.3, -1.0, 0.6, 0.05, 2.0], dtype=torch.float64, requires_grad=True)
    subject = part("surrogate", surrogate, **WIDE.get(surrogate, {}))
    expected = subject.effective_log_ratio(log_rho.detach(), at).exp()
    for sign in (1.0, -1.0):
        loss, _ = subject.loss(log_rho, torch.full_like(log_rho, sign), at)
        torch.testing.assert_close(-sign * torch.autograd.grad(loss.sum(), log_rho)[0], expected, rtol=1e-13, atol=0)
    if surrogate in WIDE:
        assert torch.equal(expected, log_rho.detach().exp()) == (surrogate in OF_TOKENS)


def test_the_soft_bound_of_sapo_is_finite_far_out():
    far = torch.tensor([-80.0, 0.0, 5.0, 10.0])
    assert part("surrogate", "sapo").effective_log_ratio(far, Packing(torch.zeros(4).long(), torch.arange(4))).isfinite().all()


def built(surrogate: Any, name: str = "grpo", epochs: int = 2, **regularizer: Any) -> Any:
    return recipes.build(
        {
            "steps": 2,
            "task": "countdown",
            "reward": "countdown_exact",
            "model": {"path": "nowhere"},
            "batch": {"prompts": 4},
            "algorithm": {"name": name, "surrogate": surrogate, "epochs": epochs},
            "regularizers": {"kl": {"coefficient": 0.1, "placement": "reward"} | regularizer},
        }
    )


@pytest.mark.parametrize(
    ("surrogate", "regularizer", "says"),
    [
        ("sapo", {}, "temperature_negative: 1 it does not, or use placement: loss"),
        ("cispo", {"estimator": "k1"}, "that of cispo(clip_low=0.2, clip_high=0.2) is not the token's: use estimator: sampled"),
        ("sequence_clipped", {"estimator": "k1"}, "is not the token's"),
        ("answer_clipped", {"estimator": "k1"}, "is not the token's"),
        ("sapo", {"estimator": "k1"}, "is not the token's"),
    ],
    ids=str,
)
def test_what_a_surrogate_would_weigh_wrongly_is_refused_off_policy(surrogate: str, regularizer: dict, says: str):
    with pytest.raises(RecipeError) as refused:
        built(surrogate, **regularizer)
    assert refused.value.where == "regularizers.kl" and says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert built(surrogate, epochs=1, **regularizer), "on-policy every ratio is 1"
    assert built(surrogate, name="ppo", **regularizer), "a critic learns the penalty at pi_old"
    assert built(surrogate, **regularizer | {"placement": "loss", "estimator": "sampled"})


@pytest.mark.parametrize("surrogate", ["clipped", "reinforce", "dual_clip"])
def test_what_weighs_by_the_token_goes_with_every_penalty(surrogate: str):
    assert isinstance(built(surrogate, estimator="k1").regularizers["kl"].estimator, K1)
