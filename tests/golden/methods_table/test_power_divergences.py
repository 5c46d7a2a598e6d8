"""Section D of the methods' oracle table: Tsallis, Cressie-Read and Renyi (rows 25 to 30)."""

from __future__ import annotations

import pytest
import torch
from golden.methods_table.toys import G5, close, loss_gradient, mean, penalty_of, regularizer, written_by_a_user
from helpers.enumeration import NAME, Problem, gradient, local_objective
from torch import Tensor

from align.divergences.alpha import Alpha
from align.divergences.cressie_read import CressieRead
from align.divergences.pearson import Pearson
from align.divergences.renyi import Renyi
from align.divergences.tsallis import Tsallis
from align.estimators.exact import Exact
from align.estimators.sampled import Sampled


@pytest.mark.parametrize(("q", "expected"), [(0.5, 0.1837216705), (1.5, 0.6644561403), (2.0, 1.085), (3.0, 2.9100277778)])
@pytest.mark.parametrize("estimator", [Sampled(), Exact()], ids=["sampled", "exact"])
def test_row_25_tsallis(q, expected, estimator):
    penalty, ctx, _ = penalty_of(Tsallis(q=q), estimator)
    close(mean(ctx, penalty.value), expected)


@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-6, -1e-6, 0.99e-4, 1.01e-4, -1.01e-4])
def test_row_26_tsallis_near_one(distance):
    """It differs from KL(pi||ref) by half the distance times E u log^2 u, to first order: no digit is lost, so no branch is needed."""
    penalty, ctx, _ = penalty_of(Tsallis(q=1 + distance), Sampled())
    drift = distance * 0.4614949124
    close(mean(ctx, penalty.value), 0.3879189488 + drift, 7)
    in_single = Tsallis(q=1 + distance).khat((G5[0] / G5[1]).log().float())
    close((G5[0] * in_single.double()).sum(), 0.3879189488 + drift, 6)


@pytest.mark.parametrize("q", [0.5, 1.5, 2.0])
def test_row_27_tsallis_in_the_reward(q):
    """q ln'_q(u) as a reward has the gradient of D^q; ln'_q(u) alone that of D^q/q."""
    problem = Problem(6)
    logits, ref = problem.random(1), problem.random(2)
    exact = gradient(lambda x: local_objective(lambda u: (u**q - u) / (q - 1), problem, x, x, ref), logits)
    leaf = logits.clone().requires_grad_()
    ctx = problem.context(leaf, None, ref)
    penalty = regularizer(Tsallis(q=q), Sampled(), "reward").penalty(ctx, NAME)
    u = torch.exp(ctx.logp - ctx.batch.ref_logp[NAME]).detach()
    ln_q = (u ** (q - 1) - 1) / (q - 1)
    close(penalty.reward, q * ln_q, 12)
    close(loss_gradient(penalty, ctx, leaf), exact, 12)
    close(torch.autograd.grad(mean(ctx, ln_q * ctx.logp), leaf)[0], exact / q, 12)


@pytest.mark.parametrize("q", [0.3, 0.7])
def test_row_28_tsallis_link_is_the_alpha_link(q):
    """beta c of D^q equals q beta c of the alpha-divergence with alpha = 1 - q, at any log-ratio."""
    a, log_u = 1 - q, torch.linspace(-3, 3, 61, dtype=torch.float64)
    for alpha in (Alpha(alpha=a), written_by_a_user(lambda u: (u ** (1 - a) - (1 - a) * u - a) / (a * (a - 1)))):
        close(Tsallis(q=q).grad_weight(log_u), q * alpha.grad_weight(log_u), 12)


@pytest.mark.parametrize("q", [0.5, 1.5, 2.0, 3.0])
def test_cressie_read_is_tsallis_over_q(q):
    """methods D: the power divergence (sum pi (pi/ref)^(q-1) - 1)/(q (q-1)) is D^q/q, and D^q/q = D^(1-q)(ref||pi)/(1-q) mirrors it."""
    pi, ref = G5
    expected = ((pi * (pi / ref) ** (q - 1)).sum() - 1) / (q * (q - 1))
    penalty, ctx, _ = penalty_of(CressieRead(power=q - 1), Sampled())
    close(mean(ctx, penalty.value), expected, 14)
    mirrored, ctx, _ = penalty_of(CressieRead(power=-q), Sampled(), (ref, pi))
    close(mean(ctx, mirrored.value), expected, 14)


@pytest.mark.parametrize(("q", "expected"), [(0.5, 0.1927152939), (2.0, 0.7347688553), (1.0, 0.3879189488)])
def test_row_29_renyi(q, expected):
    penalty, ctx, leaf = penalty_of(Renyi(q=q), Exact())
    close(mean(ctx, penalty.value), expected)
    logits = leaf.detach()[0].clone().requires_grad_()
    pi, ref = torch.softmax(logits, 0), G5[1]
    direct = (pi**q * ref ** (1 - q)).sum().log() / (q - 1) if q != 1 else (pi * (pi / ref).log()).sum()
    close(loss_gradient(penalty, ctx, leaf)[0], torch.autograd.grad(direct, logits)[0], 14)


@pytest.mark.parametrize("q", [1.0 / 3, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("tau", [0.05, 0.3])
def test_row_30_the_optimum_of_tsallis(q, tau):
    """`ref [(1 + (q-1)(Q - lambda)/tau)/q]_+^(1/(q-1))` maximises <pi, Q> - tau D^q: Q - tau c is level on its support, lower elsewhere."""
    values, ref = torch.tensor([0.9, 0.1, 0.5, -0.4, 0.3], dtype=torch.float64), G5[1]

    def policy(level: float) -> Tensor:
        return ref * ((1 + (q - 1) * (values - level) / tau) / q).clamp_min(0) ** (1 / (q - 1))

    # For q < 1 the bracket must stay positive, which every level above max Q - tau/(1 - q) grants.
    low, high = float(values.max()) - tau / (1 - q) + 1e-12 if q < 1 else -20.0, 20.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if policy(middle).sum() > 1 else (low, middle)
    pi = policy(low)
    close(pi.sum(), 1.0, 12)
    net = values - tau * Tsallis(q=q).grad_weight((pi / ref).log())
    on, off = net[pi > 0], net[pi == 0]
    close(on, on[0].expand_as(on), 11)
    assert (off < on[0]).all() and (len(off) > 0 if q > 1 and tau == 0.05 else len(off) == 0 or q > 1)


def test_row_30_sparsemax():
    """Against a uniform reference of N outcomes D^2 = N sum pi^2 - 1, so its optimum is sparsemax(Q/(2 N tau)) (Martins 1602.02068)."""
    values, tau = torch.tensor([0.9, 0.1, 0.5, -0.4, 0.3], dtype=torch.float64), 0.06
    z = values / (2 * 5 * tau)
    ordered = z.sort(descending=True).values
    size = int((1 + torch.arange(1, 6) * ordered > ordered.cumsum(0)).sum())
    pi = (z - (ordered[:size].sum() - 1) / size).clamp_min(0)
    assert 1 < size < 5
    net = values - tau * Pearson().grad_weight((pi * 5).log())
    close(net[pi > 0], net.max().expand(size), 13)
    assert (net[pi == 0] < net.max()).all()
