"""Functions of both whole distributions at a state: G5, closed forms, reductions to other divergences, and gradients by hand, float64."""

from __future__ import annotations

import math

import pytest
import torch
from golden.methods_table.toys import G5, close
from helpers.built import part
from torch import Tensor

from align.core.logprobs import Compared, Head, exact_divergence, token_stats
from align.divergences import StateFunctional
from align.divergences.forward_kl import ForwardKl
from align.divergences.jeffreys import Jeffreys
from align.divergences.renyi import Renyi

PI, REF = G5
LOGITS, OTHER = (torch.randn(7, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1))
NAMES = {
    "cauchy_schwarz": {},
    "cvar": {"mu": 0.6},
    "entropic_risk": {},
    "alphanet": {"clip": 1.5},
    "bd_kd": {},
    "pld": {"k": 5},
    "symmetric_cross_entropy": {"reverse": 0.5},
}


def made(name: str, **keys) -> StateFunctional:
    return part("divergence", name, **keys)


def gradient(functional, pi: Tensor = PI, ref: Tensor = REF) -> tuple[float, Tensor]:
    """Value, and its gradient in the policy's logits."""
    logits = pi.log().requires_grad_()
    value = exact_divergence(functional, torch.log_softmax(logits, -1), ref.log())
    return value.item(), torch.autograd.grad(value.sum(), logits)[0]


def test_cauchy_schwarz_on_g5():
    value, slope = gradient(made("cauchy_schwarz"))
    close(value, 0.6193711538)
    close(slope, [0.72528020, -0.36737235, -0.14744707, -0.09165629, -0.11880448], 8)
    c = 2 * PI / PI.square().sum() - 2 * REF / (PI * REF).sum()
    close(slope, PI * (c - (PI * c).sum()), 14)
    apart = torch.tensor([[[0.5, 0.5, 0.0]], [[0.0, 0.5, 0.5]]], dtype=torch.float64).log()
    close(made("cauchy_schwarz").of_state(*apart), [2 * math.log(2)])


@pytest.mark.parametrize("mu", [0.05, 0.3, 0.6, 0.95])
def test_row_42_cvar_is_the_least_over_the_threshold(mu: float):
    """min_t t + E_ref[(Z - t)_+]/mu, at one of the outcomes."""
    z = (REF / PI).log()
    wanted = min((t + (REF * (z - t).clamp_min(0)).sum() / mu).item() for t in z)
    value, slope = gradient(made("cvar", mu=mu))
    assert value == pytest.approx(wanted, rel=1e-12)
    worst = z.argsort(descending=True)
    before = torch.zeros(5, dtype=torch.float64)
    before[worst] = REF[worst].cumsum(0) - REF[worst]
    weight = torch.minimum(REF, (mu - before).clamp_min(0)) / mu
    close(weight.sum(), 1.0, 12)
    close(slope, PI - weight, 12)


def test_row_41_cvar_of_everything_is_forward_kl():
    value, slope = gradient(made("cvar", mu=1.0))
    wanted, other = gradient(ForwardKl())
    assert value == pytest.approx(wanted, rel=1e-12)
    close(slope, other, 12)


@pytest.mark.parametrize("mu", [1e-6, 0.5, 2.0])
def test_entropic_risk_is_a_renyi_divergence_of_the_reference(mu: float):
    value, slope = gradient(made("entropic_risk", mu=mu))
    assert value == pytest.approx(exact_divergence(Renyi(q=1 + mu), REF.log(), PI.log()).item(), rel=1e-6)
    weight = REF ** (1 + mu) * PI**-mu
    close(slope, PI - weight / weight.sum(), 12)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-0.5, 2.0)])
def test_row_55_alphanet_is_the_larger_of_two(low: float, high: float):
    def of(alpha: float, logits: Tensor) -> Tensor:
        pi = torch.softmax(logits, -1)
        if alpha == 1:
            return (REF * (REF / pi).log()).sum()
        return (pi * ((REF / pi) ** alpha - 1)).sum() / (alpha * (alpha - 1))

    seen = set()
    for pi in torch.tensor([[0.6, 0.2, 0.1, 0.04, 0.06], [0.02, 0.38, 0.2, 0.15, 0.25]], dtype=torch.float64):
        logits = pi.log().requires_grad_()
        values = [of(alpha, logits) for alpha in (low, high)]
        seen.add(values[0].item() > values[1].item())
        wanted = torch.maximum(*values)
        value, slope = gradient(made("alphanet", low=low, high=high, clip=1e9), pi)
        assert value == pytest.approx(wanted.item(), rel=1e-12)
        close(slope, torch.autograd.grad(wanted, logits)[0], 12)
    assert seen == {True, False}


def test_alphanet_weighs_no_token_beyond_the_clip():
    pi = torch.tensor([0.02, 0.33, 0.25, 0.15, 0.25], dtype=torch.float64)
    value, slope = gradient(made("alphanet", low=-20.0, clip=3.0), pi)  # alpha = 1 is the larger
    weight = pi * (REF / pi).clamp_max(3.0)
    assert value == pytest.approx((weight * (REF / pi).log()).sum().item(), rel=1e-12)
    close(slope, -(weight - pi * weight.sum()), 12)


def test_bd_kd_weighs_the_kl_that_the_entropies_favour():
    certain, unsure = torch.tensor([0.9, 0.04, 0.03, 0.02, 0.01]).double(), torch.full((5,), 0.2).double()
    for pi, ref, weights in ((certain, unsure, (3.0, 1.0)), (unsure, certain, (1.0, 3.0))):
        value, _ = gradient(made("bd_kd", favoured=3.0), pi, ref)
        assert value == pytest.approx((weights[0] * (ref * (ref / pi).log()).sum() + weights[1] * (pi * (pi / ref).log()).sum()).item())
    value, slope = gradient(made("bd_kd", favoured=3.0), certain, unsure)
    _, forward = gradient(ForwardKl(), certain, unsure)
    _, both = gradient(Jeffreys(), certain, unsure)
    close(slope, both + 2 * forward, 12)


def test_row_57_pld():
    """A one-hot teacher gives the cross-entropy, a uniform weight ListMLE; a shift of the scores changes nothing."""
    order = REF.argsort(descending=True)
    scores, w = PI.log()[order], torch.softmax(REF.log()[order] / 4, -1)
    wanted = -sum(w[k] * (scores[k] - torch.logsumexp(scores[k:], -1)) for k in range(5))
    value, _ = gradient(made("pld", temperature=4.0))
    assert value == pytest.approx(wanted.item(), rel=1e-12)
    listed = -sum((scores[k] - torch.logsumexp(scores[k:], -1)) / 5 for k in range(5))
    assert gradient(made("pld", temperature=1e9))[0] == pytest.approx(listed.item(), rel=1e-6)
    assert gradient(made("pld", temperature=1e-3))[0] == pytest.approx(-PI[order[0]].log().item(), rel=1e-6)
    two = made("pld", k=2).of_state(PI.log() + 3.0, REF.log())
    close(two, made("pld", k=2).of_state(PI.log(), REF.log()), 12)


def test_symmetric_cross_entropy():
    value, slope = gradient(made("symmetric_cross_entropy", forward=0.3, reverse=2.0))
    assert value == pytest.approx((-0.3 * (REF * PI.log()).sum() - 2 * (PI * REF.log()).sum()).item(), rel=1e-12)
    c = REF.log() + 0.0
    close(slope, 0.3 * (PI - REF) - 2 * PI * (c - (PI * c).sum()), 12)
    one_hot = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]], dtype=torch.float64).log()
    found = made("symmetric_cross_entropy", floor=-4.0).of_state(PI.log()[None], one_hot)
    close(found, [-PI[2].log().item() + 4 * (1 - PI[2]).item()], 12)  # row 58


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("elements", [None, 40])
def test_the_head_gives_value_and_gradient_whatever_the_chunks(name: str, elements: int | None):
    functional = made(name, **NAMES[name])
    states, weight = torch.eye(7, dtype=torch.float64), LOGITS.T.contiguous().requires_grad_()
    compared = {"x": Compared(functional, states, Head(OTHER.T.contiguous()))}
    upstream = torch.linspace(0.5, 2, 7, dtype=torch.float64)
    found = token_stats(states, Head(weight), torch.zeros(7, dtype=torch.int64), temperature=0.7, compared=compared, elements=elements)
    (slope,) = torch.autograd.grad((upstream * found.exact["x"]).sum(), weight)
    leaf = LOGITS.clone().requires_grad_()
    wanted = functional.of_state(torch.log_softmax(leaf / 0.7, -1), torch.log_softmax(OTHER / 0.7, -1))
    torch.testing.assert_close(found.exact["x"], wanted.detach(), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(slope, torch.autograd.grad((upstream * wanted).sum(), leaf)[0].T, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_a_token_that_one_side_rules_out_leaves_numbers(name: str):
    ref = torch.tensor([[0.0, 0.5, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64).log()
    leaf = torch.tensor([[0.3, 0.1, -0.2, -torch.inf]], dtype=torch.float64).expand(2, -1).clone()
    leaf[1, 3] = 0.2
    leaf.requires_grad_()
    found = made(name, **NAMES[name]).of_state(torch.log_softmax(leaf, -1), ref)
    (slope,) = torch.autograd.grad(found.sum(), leaf)
    assert found[1].isfinite() and slope[1].isfinite().all()
    if name not in ("bd_kd",):  # whose KL(pi||ref) is infinite there
        assert found[0].isfinite() and slope[0, :3].isfinite().all()
