"""The weights of each loss weighting against the objective it stands for: value and gradient in float64, from the papers' definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from align.loss_weightings.cvar import Cvar
from align.loss_weightings.feasible import Feasible
from align.loss_weightings.imc import Imc
from align.loss_weightings.kl_dro import KlDro
from align.loss_weightings.top_entropy import TopEntropy
from align.types import TokenBatch


def losses(theta: Tensor) -> Tensor:
    """Seven losses of three parameters."""
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.nn.functional.softplus(features @ theta) + (features @ theta).square() / 5


THETA = torch.tensor([0.7, -1.1, 0.4], dtype=torch.float64, requires_grad=True)


def cvar(of: Tensor, mu: float) -> Tensor:
    """min over t of t + mean (l - t)_+/mu: t is one of the losses."""
    return torch.stack([t + (of - t).clamp_min(0).mean() / mu for t in of]).min()


OBJECTIVES = {
    "kl_dro": (KlDro(temperature=0.6), lambda x: 0.6 * (torch.logsumexp(x / 0.6, 0) - math.log(7))),
    "kl_dro, cold": (KlDro(temperature=0.01), lambda x: x.max() - 0.01 * math.log(7)),
    "imc": (Imc(temperature=0.6), lambda x: -0.6 * (torch.logsumexp(-x / 0.6, 0) - math.log(7))),
    "cvar, whole": (Cvar(fraction=2 / 7), lambda x: cvar(x, 2 / 7)),
    "cvar, split": (Cvar(fraction=0.5), lambda x: cvar(x, 0.5)),
    "cvar, less than one": (Cvar(fraction=0.05), lambda x: x.max()),
}


@pytest.mark.parametrize("case", OBJECTIVES)
def test_the_gradient_is_that_of_the_objective(case: str):
    weighting, objective = OBJECTIVES[case]
    given = losses(THETA)
    weights = weighting.of_losses(given.detach())
    (weighed,) = torch.autograd.grad((weights * given).mean(), THETA)
    (exact,) = torch.autograd.grad(objective(losses(THETA)), THETA)
    assert torch.allclose(weighed, exact, rtol=1e-9, atol=1e-12)
    assert weights.mean().item() == pytest.approx(1.0)


@pytest.mark.parametrize(("weighting", "sign"), [(KlDro(temperature=0.6), 1), (Imc(temperature=0.6), -1)], ids=["kl_dro", "imc"])
def test_the_value_is_the_dual_one(weighting, sign: int):
    """max_w <w, l> - tau KL(w||1/S), and min_w <w, l> + eta KL(w||1/S): at the weights the bound is reached."""
    given = losses(THETA).detach()
    w = weighting.of_losses(given) / 7
    value = (w * given).sum() - sign * 0.6 * (w * (7 * w).log()).sum()
    assert value.item() == pytest.approx((sign * 0.6 * (torch.logsumexp(sign * given / 0.6, 0) - math.log(7))).item(), abs=1e-12)
    other = torch.softmax(torch.arange(7.0, dtype=torch.float64) / 3, 0)
    assert sign * ((other * given).sum() - sign * 0.6 * (other * (7 * other).log()).sum()) < sign * value


def test_cvar_is_the_sorted_tail_and_shares_ties_equally():
    given = losses(THETA).detach()
    w = Cvar(fraction=0.5).of_losses(given)
    tail = given.sort(descending=True).values
    assert (w * given).mean().item() == pytest.approx(((tail[:3].sum() + 0.5 * tail[3]) / 3.5).item(), abs=1e-12)
    assert Cvar(fraction=0.5).of_losses(torch.tensor([2.0, 1.0, 1.0, 0.0])).tolist() == [2.0, 1.0, 1.0, 0.0]


def test_a_large_temperature_is_the_plain_mean():
    given = losses(THETA).detach()
    for weighting in (KlDro(temperature=1e6), Imc(temperature=1e6)):
        assert weighting.of_losses(given).tolist() == pytest.approx([1.0] * 7, abs=1e-5)


def test_multipliers_of_feasible_learning():
    """Section 3 of the paper: at rest lambda = resilience (l - tolerance)_+."""
    part = Feasible(tolerance=1.2, resilience=2.0, rate=0.5)
    state = part.initial_state()
    for _ in range(200):
        state = part.update(state, {"hard": 1.7, "easy": 1.0})
    assert state["multipliers"] == {"hard": pytest.approx(1.0), "easy": 0.0}
    once = part.update({"multipliers": {"hard": 0.4}}, {"hard": 1.7})
    assert once["multipliers"]["hard"] == pytest.approx(0.4 + 0.5 * (1.7 - 1.2 - 0.2))


def test_plain_feasible_learning_adds_up_the_violations():
    part = Feasible(tolerance=1.0, resilience=math.inf, initial=0.0)
    state = part.update(part.update(part.initial_state(), {"a": 1.5, "b": 0.2}), {"a": 1.25})
    assert state["multipliers"] == {"a": pytest.approx(0.75), "b": 0.0}
    with pytest.raises(ValueError, match="resilience must be above"):
        Feasible(rate=1.0, resilience=0.5)


def entropies(values: Tensor) -> TokenBatch:
    n = len(values)
    zeros = torch.zeros(n, dtype=torch.int64)
    one = torch.ones(n, dtype=torch.int64)
    return TokenBatch(
        input_ids=torch.zeros(n, 2, dtype=torch.int64), totals=2 * one, lengths=one, seq_ids=torch.arange(n), positions=zeros,
        columns=one, group_ids=torch.arange(n), entropy=values,
    )  # fmt: skip


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("count", [1, 2, 9, 10])
def test_top_entropy_keeps_what_the_quantile_keeps(count: int, share: float):
    """TRL's rule (`get_high_entropy_mask`): the entropies from `torch.quantile(entropies, 1 - share)` up."""
    h = torch.rand(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    kept = TopEntropy(share=share).of_batch(entropies(h), {})
    assert torch.equal(kept.bool(), h >= torch.quantile(h, 1 - share))
