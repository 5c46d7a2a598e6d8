"""The rows of the methods' oracle table that concern divergences, estimators, weightings, coefficients and the GRPO losses.

The numbers are arithmetic from the formulas of the papers, or figures of TRL 1.16 (rows 65 and 66); none was made with align.
"row n" in a test's name is the row of that table. G5 and G4 are its two toy pairs of distributions, TG its GRPO batch.
"""

from __future__ import annotations

import ast
import importlib.util
import math
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from unit.enumeration import NAME, Problem, gradient, local_objective, sequence_objective, summed_objective

from align.algorithms.grpo import Grpo
from align.algorithms.sft import Sft
from align.coefficients.adaptive import Adaptive
from align.coefficients.constant import Constant
from align.core import reductions
from align.core.advantages import batch_standardised, group_centred, group_standardised
from align.core.credit import Packing
from align.core.surrogates import clipped
from align.divergences import Divergence
from align.divergences.alpha import Alpha
from align.divergences.chi_squared_kl import ChiSquaredKl
from align.divergences.cressie_read import CressieRead
from align.divergences.forward_kl import ForwardKl
from align.divergences.generalised_jsd import GeneralisedJsd
from align.divergences.hellinger import Hellinger
from align.divergences.jeffreys import Jeffreys
from align.divergences.jensen_shannon import JensenShannon
from align.divergences.k2_functional import K2Functional
from align.divergences.neyman import Neyman
from align.divergences.pearson import Pearson
from align.divergences.renyi import Renyi
from align.divergences.reverse_kl import ReverseKl
from align.divergences.skew_kl import SkewKl
from align.divergences.skew_reverse_kl import SkewReverseKl
from align.divergences.total_variation import TotalVariation
from align.divergences.tsallis import Tsallis
from align.estimators.exact import Exact
from align.estimators.k1 import K1
from align.estimators.k2 import K2
from align.estimators.k3 import K3
from align.estimators.sampled import Sampled
from align.registry import _complete
from align.regularizers.composed import Composed
from align.types import RefScore, TokenBatch, TokenContext
from align.weightings.difficulty import Difficulty
from align.weightings.uniform import Uniform

G5 = (torch.tensor([0.40, 0.25, 0.20, 0.10, 0.05], dtype=torch.float64), torch.tensor([0.10, 0.30, 0.20, 0.15, 0.25], dtype=torch.float64))
G4 = (torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))
GRAD_REVERSE = [0.39935016, -0.14256013, -0.07758379, -0.07933841, -0.09986784]
GRAD_FORWARD = [0.3, -0.05, 0.0, -0.05, -0.2]


def written_by_a_user(f) -> Divergence:
    """A class with f alone, completed as the registry completes a plugin."""
    return _complete(type("Own", (), {"f": lambda self, log_u: f(torch.exp(log_u))}), Divergence)()


ALPHA = 0.3
FUNCTIONS = {
    "reverse_kl": lambda u: u * u.log(),
    "forward_kl": lambda u: -u.log(),
    "jensen_shannon": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
    "alpha_0.3": lambda u: (u ** (1 - ALPHA) - (1 - ALPHA) * u - ALPHA) / (ALPHA * (ALPHA - 1)),
    "pearson": lambda u: (u - 1) ** 2,
    "neyman": lambda u: (u - 1) ** 2 / u,
    "hellinger": lambda u: (u.sqrt() - 1) ** 2,
    "jeffreys": lambda u: (u - 1) * u.log(),
    "total_variation": lambda u: 0.5 * (u - 1).abs(),
    "tsallis_1.7": lambda u: (u**1.7 - u) / 0.7,
    "chi2_kl": lambda u: 0.5 * (u - 1) ** 2 + u * u.log(),
    "k2_functional": lambda u: 0.5 * u * u.log() ** 2,
}
SHIPPED = {
    "reverse_kl": ReverseKl(), "forward_kl": ForwardKl(), "jensen_shannon": JensenShannon(), "alpha_0.3": Alpha(alpha=ALPHA),
    "pearson": Pearson(), "neyman": Neyman(), "hellinger": Hellinger(), "jeffreys": Jeffreys(), "total_variation": TotalVariation(),
    "tsallis_1.7": Tsallis(q=1.7), "chi2_kl": ChiSquaredKl(), "k2_functional": K2Functional(),
}
EVERY = [pytest.param(written_by_a_user(f), f, id=f"own {n}") for n, f in FUNCTIONS.items()] + [
    pytest.param(d, FUNCTIONS[n], id=f"shipped {n}") for n, d in SHIPPED.items()]


def close(actual, expected, digits: int = 10):
    torch.testing.assert_close(torch.as_tensor(actual, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64),
                               rtol=0, atol=0.5000001 * 10.0**-digits)


def penalty_of(divergence, estimator, pair=G5, *, placement="loss", credit="local"):
    """The penalty, its context and the logits on one token drawn from the first of two distributions."""
    pi, ref = pair
    leaf = pi.log()[None].requires_grad_()
    ctx = Problem(len(pi)).context(leaf, None, ref.log()[None], divergence)
    return regularizer(divergence, estimator, placement, credit).penalty(ctx, NAME), ctx, leaf


def regularizer(divergence, estimator, placement="loss", credit="local") -> Composed:
    return Composed(divergence=divergence, estimator=estimator, coefficient=Constant(1.0), weighting=Uniform(), reference=None,
                    placement=placement, credit=credit)


def mean(ctx: TokenContext, x: Tensor) -> Tensor:
    return (ctx.batch.loss_weights * x).sum()


def loss_gradient(penalty, ctx: TokenContext, leaf: Tensor) -> Tensor:
    """Of the mean loss; a reward enters through the unclipped surrogate."""
    loss = penalty.loss if penalty.reward is None else torch.exp(ctx.log_rho) * penalty.reward
    return torch.autograd.grad(mean(ctx, loss), leaf, retain_graph=True)[0]


@pytest.mark.parametrize(("pair", "estimator", "expected"), [
    (G5, K1(), 0.3879189488), (G5, K3(), 0.3879189488), (G5, K2(), 0.4614949124), (G5, Sampled(), 0.3879189488),
    (G5, Exact(), 0.3879189488), (G4, K1(), 0.4564348191), (G4, K3(), 0.4564348191), (G4, K2(), 0.5215535024),
])
def test_row_1_values(pair, estimator, expected):
    penalty, ctx, _ = penalty_of(ReverseKl(), estimator, pair)
    close(mean(ctx, penalty.value), expected)


@pytest.mark.parametrize(("estimator", "expected"), [(K1(), 1.38629436), (K2(), 0.96090603), (K3(), 0.63629436)])
def test_row_2_outcome_with_u_4(estimator, expected):
    penalty, _, _ = penalty_of(ReverseKl(), estimator)
    close(penalty.value[0], expected, 8)


@pytest.mark.parametrize("pair", [G4, G5])
def test_row_3_k1_as_loss_is_noise(pair):
    penalty, ctx, leaf = penalty_of(ReverseKl(), K1(), pair)
    close(loss_gradient(penalty, ctx, leaf), torch.zeros_like(leaf), 15)
    assert torch.autograd.grad(penalty.loss.sum(), leaf)[0].abs().max() > 0.1, "each sample does push"


@pytest.mark.parametrize("estimator", [K2(), Sampled(), Exact()])
def test_row_4_and_8_gradient_of_reverse_kl(estimator):
    """Row 8: `sampled` on-policy has the value of k3 and the gradient of k2."""
    penalty, ctx, leaf = penalty_of(ReverseKl(), estimator)
    close(loss_gradient(penalty, ctx, leaf)[0], GRAD_REVERSE, 8)
    if isinstance(estimator, Sampled):
        u = G5[0] / G5[1]
        close(penalty.value, 1 / u - 1 + u.log(), 14)


def test_golden_gradients_of_g4():
    for estimator, expected in ((K2(), [0.3719438168, -0.0152909133, -0.1723799855, -0.1842729180]), (K3(), [0.3, 0.1, -0.1, -0.3])):
        close(loss_gradient(*penalty_of(ReverseKl(), estimator, G4))[0], expected)


def test_row_5_k3_as_loss_descends_forward_kl():
    close(loss_gradient(*penalty_of(ReverseKl(), K3()))[0], GRAD_FORWARD, 14)


def random_tokens(count: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs of as many unrelated tokens under pi (a leaf), mu and ref."""
    generator = torch.Generator().manual_seed(5)
    pi, mu, ref = -2 * torch.rand(3, count, generator=generator, dtype=torch.float64) - 0.05
    return pi.requires_grad_(), mu, ref


def packed(logp: Tensor, old: Tensor | None, ref: Tensor, lengths: list[int], width: int | None = None) -> TokenContext:
    """A context from bare log-probs; the ids in `input_ids` are arbitrary."""
    width = max(lengths) if width is None else width
    seq_ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    batch = TokenBatch(
        input_ids=torch.full((len(lengths), 1 + width), 7), prompt_lengths=torch.ones(len(lengths), dtype=torch.int64),
        lengths=torch.tensor(lengths), seq_ids=seq_ids, positions=torch.cat([torch.arange(n) for n in lengths]),
        group_ids=torch.zeros(len(lengths), dtype=torch.int64), old_logp=old, references={NAME: RefScore(logp=ref)},
        penalty_weights={NAME: torch.ones(len(seq_ids), dtype=logp.dtype)},
    )
    return TokenContext(batch=batch, logp=logp, entropy=torch.zeros_like(logp.detach()))


def test_row_6_rho_k3_equals_weighed_k2_per_sample():
    """autograd of rho * k3 with the ratio attached, of sg(rho) * k2, and ours: one gradient, sample by sample."""
    pi, mu, ref = random_tokens()
    rho, delta = torch.exp(pi - mu), ref - pi
    attached = torch.autograd.grad((rho * (torch.exp(delta) - 1 - delta)).sum(), pi, retain_graph=True)[0]
    weighed = torch.autograd.grad((rho.detach() * 0.5 * delta**2).sum(), pi)[0]
    penalty = regularizer(ReverseKl(), Sampled()).penalty(packed(pi, mu, ref, [1] * 50), NAME)
    ours = torch.autograd.grad(penalty.loss.sum(), pi)[0]
    close(attached, weighed, 14)
    close(ours, weighed, 14)


def test_row_7_k3_in_the_reward():
    close(loss_gradient(*penalty_of(ReverseKl(), K3(), placement="reward"))[0],
          [0.09935016, -0.09256013, -0.07758379, -0.02933841, 0.10013216], 8)
    close(loss_gradient(*penalty_of(ReverseKl(), K1(), placement="reward"))[0], GRAD_REVERSE, 8)


TWO_TOKENS = Problem(4, 2)


def two_token_gradient(divergence, estimator, placement, credit) -> Tensor:
    leaf = TWO_TOKENS.random(1).requires_grad_()
    ctx = TWO_TOKENS.context(leaf, None, TWO_TOKENS.random(2))
    return loss_gradient(regularizer(divergence, estimator, placement, credit).penalty(ctx, NAME), ctx, leaf)


def test_row_9_reward_to_go_of_k1_on_two_tokens():
    logits, ref = TWO_TOKENS.random(1), TWO_TOKENS.random(2)
    exact = gradient(lambda x: sequence_objective(FUNCTIONS["reverse_kl"], TWO_TOKENS, x, ref), logits)
    close(two_token_gradient(ReverseKl(), K1(), "reward", "summed"), exact, 13)
    close(two_token_gradient(ReverseKl(), K2(), "loss", "sequence"), exact, 13)
    assert (two_token_gradient(ReverseKl(), K2(), "loss", "local") - exact).norm() > 0.05


@pytest.mark.parametrize("name", SHIPPED)
def test_row_9b_divergences_on_two_tokens(name):
    """Own coefficient plus future values is exact, the return-to-go of the coefficient only for reverse KL."""
    logits, ref, f = TWO_TOKENS.random(1), TWO_TOKENS.random(2), FUNCTIONS[name]
    summed = gradient(lambda x: summed_objective(f, TWO_TOKENS, x, ref), logits)
    close(two_token_gradient(SHIPPED[name], Sampled(), "loss", "summed"), summed, 12)
    sequence = gradient(lambda x: sequence_objective(f, TWO_TOKENS, x, ref), logits)
    close(two_token_gradient(SHIPPED[name], Sampled(), "loss", "sequence"), sequence, 12)

    leaf = logits.clone().requires_grad_()
    ctx = TWO_TOKENS.context(leaf, None, ref)
    log_u = (ctx.logp - ctx.batch.references[NAME].logp).detach()
    c = slope(f, log_u.exp()) - slope(f, torch.ones_like(log_u))
    last = ctx.batch.positions == 1
    to_go = c + torch.where(last, 0.0, c.roll(-1))
    naive = torch.autograd.grad(mean(ctx, to_go * ctx.logp), leaf)[0]
    assert ((naive - summed).norm() < 1e-12) == (name == "reverse_kl")
    assert name == "reverse_kl" or (naive - summed).norm() > 0.01


def slope(f, u: Tensor) -> Tensor:
    """f'(u) by autograd in u itself."""
    u = u.detach().clone().requires_grad_()
    return torch.autograd.grad(f(u).sum(), u)[0]


@pytest.mark.parametrize(("divergence", "f"), EVERY)
def test_row_10_gradient_per_sample(divergence, f):
    """rho * khat differentiated as a whole, khat built from f, equals rho (f'(u) - f'(1)) s: sample by sample, off-policy."""
    pi, mu, ref = random_tokens()
    u, one = torch.exp(pi - ref), torch.ones((), dtype=torch.float64)
    khat = (f(u) - f(one) - slope(f, one) * (u - 1)) / u
    whole = torch.autograd.grad((torch.exp(pi - mu) * khat).sum(), pi)[0]
    penalty = regularizer(divergence, Sampled()).penalty(packed(pi, mu, ref, [1] * 50), NAME)
    close(torch.autograd.grad(penalty.loss.sum(), pi)[0], whole, 11)
    close(penalty.value, torch.exp(pi - mu).detach() * khat.detach(), 11)
    close(torch.exp(pi - mu).detach() * divergence.coefficient((pi - ref).detach()), whole, 11)


@pytest.mark.parametrize(("name", "delta", "c", "khat"), [
    ("reverse_kl", 0.7, -0.7, 0.3137527075),
    ("forward_kl", 0.7, -1.0137527075, 0.3958741878),
    ("jensen_shannon", 0.7, -0.4100388683, 0.1738711456),
    ("hellinger", 0.7, -0.4190675486, 0.1756176103),
    ("jeffreys", 0.7, -1.7137527075, 0.7096268952),
    ("reverse_kl", -0.4, 0.4, 0.0703200460),
    ("pearson", -0.4, 0.9836493953, 0.1621447437),
    ("alpha_0.3", -0.4, 0.3769318776, 0.0675027481),
    ("tsallis_1.7", -0.4, 0.7847438300, 0.1319340637),
    ("chi2_kl", -0.4, 0.8918246976, 0.1513924179),
])
def test_rows_11_and_12_closed_forms(name, delta, c, khat):
    log_u = torch.tensor(-delta, dtype=torch.float64)
    for divergence in (written_by_a_user(FUNCTIONS[name]), SHIPPED[name]):
        close(divergence.coefficient(log_u), c)
        close(divergence.value(log_u), khat)


@pytest.mark.parametrize(("divergence", "f"), EVERY)
def test_row_13_value_is_zero_only_at_the_reference(divergence, f):
    log_u = torch.linspace(-3, 3, 601, dtype=torch.float64)
    away = torch.arange(601) != 300
    assert (divergence.value(log_u[away]) > 1e-6).all()
    close(divergence.value(log_u.new_zeros(1)), [0.0], 15)


@pytest.mark.parametrize(("name", "expected"), [
    ("forward_kl", 0.3792462753), ("jensen_shannon", 0.1764579166), ("alpha_0.3", 0.3717900112), ("pearson", 1.085), ("neyman", 1.06),
    ("hellinger", 0.1837216705), ("jeffreys", 0.7671652241), ("total_variation", 0.3), ("chi2_kl", 0.9304189488),
    ("reverse_kl", 0.3879189488), ("k2_functional", 0.4614949124),
])
@pytest.mark.parametrize("estimator", [Sampled(), Exact()], ids=["sampled", "exact"])
def test_row_14_divergences(name, expected, estimator):
    for divergence in (written_by_a_user(FUNCTIONS[name]), SHIPPED[name]):
        penalty, ctx, _ = penalty_of(divergence, estimator)
        close(mean(ctx, penalty.value), expected)


@pytest.mark.parametrize("divergence", [Pearson(), Tsallis(q=2.0), written_by_a_user(FUNCTIONS["pearson"])],
                         ids=["pearson", "tsallis", "own"])
def test_row_15_full_vocabulary_chi_squared(divergence):
    close(loss_gradient(*penalty_of(divergence, Exact()))[0], [1.532, -0.62583333, -0.434, -0.28366667, -0.1885], 8)


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
    in_single = Tsallis(q=1 + distance).value((G5[0] / G5[1]).log().float())
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
    u = torch.exp(ctx.logp - ctx.batch.references[NAME].logp).detach()
    ln_q = (u ** (q - 1) - 1) / (q - 1)
    close(penalty.reward, q * ln_q, 12)
    close(loss_gradient(penalty, ctx, leaf), exact, 12)
    close(torch.autograd.grad(mean(ctx, ln_q * ctx.logp), leaf)[0], exact / q, 12)


@pytest.mark.parametrize("q", [0.3, 0.7])
def test_row_28_tsallis_link_is_the_alpha_link(q):
    """beta c of D^q equals q beta c of the alpha-divergence with alpha = 1 - q, at any log-ratio."""
    a, log_u = 1 - q, torch.linspace(-3, 3, 61, dtype=torch.float64)
    for alpha in (Alpha(alpha=a), written_by_a_user(lambda u: (u ** (1 - a) - (1 - a) * u - a) / (a * (a - 1)))):
        close(Tsallis(q=q).coefficient(log_u), q * alpha.coefficient(log_u), 12)


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
    net = values - tau * Tsallis(q=q).coefficient((pi / ref).log())
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
    net = values - tau * Pearson().coefficient((pi * 5).log())
    close(net[pi > 0], net.max().expand(size), 13)
    assert (net[pi == 0] < net.max()).all()


def dads_batch(correct: int, advantage: float = 1.0) -> TokenBatch:
    """Eight rollouts of one token for one prompt, so many of them right."""
    ctx = packed(torch.zeros(8), None, torch.zeros(8), [1] * 8)
    return replace(ctx.batch, rewards=(torch.arange(8) < correct).float(), advantages=torch.full((8,), advantage))


@pytest.mark.parametrize(("correct", "expected"), [(0, 1.0), (1, 0.2880767929), (4, 0.7431186347), (7, 0.9073101773), (8, 1.0)])
def test_row_32_dads(correct, expected):
    close(Difficulty().weights(dads_batch(correct), NAME), torch.full((8,), expected), 7)
    close(Difficulty().weights(dads_batch(correct, advantage=-1.0), NAME), torch.ones(8), 15)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


@pytest.mark.parametrize("estimator", [Sampled(), Exact()], ids=["sampled", "exact"])
def test_row_53_skew_kl(estimator):
    """lam = 0 is the KL, lam -> 1 nothing ((1 - lam)^2/2 of a chi-squared); between them DistiLLM's definition, ref its teacher."""
    pi, ref = G5
    for lam in (0.1, 0.7):
        for divergence, expected in ((SkewKl(lam=lam), kl(ref, lam * ref + (1 - lam) * pi)),
                                     (SkewReverseKl(lam=lam), kl(pi, (1 - lam) * ref + lam * pi))):
            penalty, ctx, _ = penalty_of(divergence, estimator)
            close(mean(ctx, penalty.value), expected, 14)
    for divergence, expected in ((SkewKl(lam=0.0), 0.3792462753), (SkewReverseKl(lam=0.0), 0.3879189488)):
        penalty, ctx, _ = penalty_of(divergence, estimator)
        close(mean(ctx, penalty.value), expected)
    for family, chi_squared in ((SkewKl, 1.085), (SkewReverseKl, 1.06)):
        penalty, ctx, _ = penalty_of(family(lam=1 - 2.0**-20), estimator)
        close(mean(ctx, penalty.value) * 2.0**40, chi_squared / 2, 5)


@pytest.mark.parametrize("estimator", [Sampled(), Exact()], ids=["sampled", "exact"])
def test_row_54_generalised_jsd(estimator):
    """b = 1/2 is JSD; value/b -> KL(ref||pi) as b -> 0 and value/(1 - b) -> KL(pi||ref) as b -> 1."""
    pi, ref = G5

    def value(b: float) -> Tensor:
        penalty, ctx, _ = penalty_of(GeneralisedJsd(b=b), estimator)
        return mean(ctx, penalty.value)

    close(value(0.5), 0.0882289583)
    for b in (0.1, 0.8):
        m = (1 - b) * pi + b * ref
        close(value(b), b * kl(ref, m) + (1 - b) * kl(pi, m), 14)
    close(value(1e-8) / 1e-8, 0.3792462753, 7)
    close(value(1 - 1e-8) / 1e-8, 0.3879189488, 7)


def trl_scores(f_divergence_type: str, alpha: float, log_u: Tensor) -> Tensor:
    """The scores of TRL's DPO trainer, by its own lines: the `if self.f_divergence_type == ...` of `_compute_loss`."""
    folder = importlib.util.find_spec("trl").submodule_search_locations[0]
    tree = ast.parse((Path(folder) / "trainer" / "dpo_trainer.py").read_text())
    (method,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "_compute_loss")
    lines = next(n for n in ast.walk(method) if isinstance(n, ast.If) and ast.unparse(n.test) == "self.f_divergence_type == 'reverse_kl'")
    names = {"self": SimpleNamespace(f_divergence_type=f_divergence_type, f_alpha_divergence_coef=alpha), "torch": torch, "math": math,
             "F": torch.nn.functional, "chosen_logratios": log_u, "rejected_logratios": log_u}
    exec(compile(ast.Module([lines], []), "dpo_trainer.py", "exec"), names)
    return names["chosen_scores"]


@pytest.mark.parametrize(("f_divergence_type", "alpha", "divergence"), [
    ("reverse_kl", 0.5, ReverseKl()), ("forward_kl", 0.5, ForwardKl()), ("js_divergence", 0.5, JensenShannon()),
    ("alpha_divergence", 0.7, Alpha(alpha=0.3)), ("alpha_divergence", 0.1, Alpha(alpha=0.9)),
], ids=["reverse_kl", "forward_kl", "js", "alpha_0.3", "alpha_0.9"])
def test_f_dpo_scores_are_those_of_trl(f_divergence_type, alpha, divergence):
    """Up to a constant, which cancels between chosen and rejected; alpha_TRL = 1 - alpha. float32, the only type TRL's alpha takes."""
    log_u = torch.linspace(-6, 6, 241)
    ours, theirs = divergence.coefficient(log_u), trl_scores(f_divergence_type, alpha, log_u)
    torch.testing.assert_close(ours - ours[0], theirs - theirs[0], rtol=2e-6, atol=2e-6)
    assert (ours - ours[0])[1:].min() > 0.01


@pytest.mark.parametrize(("divergence", "expected"), [
    (ReverseKl(), 0.6539469673), (ForwardKl(), 0.6566712851), (JensenShannon(), 0.6743140211), (Hellinger(), 0.6741788897),
    (Alpha(alpha=0.3), 0.6549929733), (Pearson(), 0.6064726656), (Neyman(), 0.6230764016), (Jeffreys(), 0.6189551502),
    (Tsallis(q=1.7), 0.6219871058), (ChiSquaredKl(), 0.6113937712),
], ids=lambda x: type(x).__name__ if isinstance(x, Divergence) else "")
def test_rows_18_to_22_the_preference_link(divergence, expected):
    """-log sigmoid(beta (c_w - c_l)) on the pair lr_w = .5, lr_l = -.3, beta = .1."""
    chosen, rejected = divergence.coefficient(torch.tensor([0.5, -0.3], dtype=torch.float64))
    close(-torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)), expected)


@pytest.mark.parametrize(("kl", "expected"), [(12.0, 0.201024), (6.3, 0.200256), (6.0, 0.2), (0.0, 0.198976)])
def test_row_59_ziegler(kl, expected):
    coefficient = Adaptive(target=6.0)
    coefficient.update(kl, 256)
    close(coefficient.beta(1), expected, 14)


def test_row_60_grpo_advantages():
    rewards, groups = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    close(group_standardised(rewards, groups), [1.49970006, -0.49990002, -0.49990002, -0.49990002], 8)
    close(group_centred(rewards, groups), [0.75, -0.25, -0.25, -0.25], 15)
    close(batch_standardised(rewards, groups), [1.49970006, -0.49990002, -0.49990002, -0.49990002], 8)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 16])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 0.7, -1.3, 1000.1])
def test_row_60_constant_rewards_teach_nothing(reward, count):
    """Exactly nothing: rounding over a standard deviation of 0 would be an advantage."""
    rewards, groups = torch.full((2 * count,), reward), torch.arange(2 * count) % 2
    for advantages in (group_standardised, group_centred, batch_standardised):
        assert torch.equal(advantages(rewards, groups), torch.zeros(2 * count))


@pytest.mark.parametrize("advantages", [group_standardised, group_centred, batch_standardised])
def test_row_60_a_single_rollout_teaches_nothing(advantages):
    assert advantages(torch.tensor([0.7]), torch.tensor([0])).tolist() == [0.0]


def test_groups_do_not_mix():
    """Two interleaved groups standardise as they do alone; the batch's deviation is that of all rewards."""
    rewards = torch.tensor([1.0, 5.0, 0.0, 9.0, 0.0, 5.0, 0.0], dtype=torch.float64)
    groups = torch.tensor([0, 1, 0, 1, 0, 1, 0])
    alone = torch.zeros(7, dtype=torch.float64)
    for g in (0, 1):
        mine = rewards[groups == g].numpy()
        alone[groups == g] = torch.as_tensor((mine - mine.mean()) / (mine.std(ddof=1) + 1e-4))
    close(group_standardised(rewards, groups), alone, 13)
    centred = rewards - torch.where(groups == 0, rewards[groups == 0].mean(), rewards[groups == 1].mean())
    close(batch_standardised(rewards, groups), centred / (rewards.numpy().std(ddof=1) + 1e-4), 13)


@pytest.mark.parametrize(("rho", "advantage", "expected", "cut"), [
    (1.3, 1.0, 0.0, True), (1.3, -1.0, 1.3, False), (0.7, -1.0, 0.0, True), (0.7, 1.0, -0.7, False), (1.0, 1.0, -1.0, False),
])
def test_row_62_ppo_clip(rho, advantage, expected, cut):
    log_rho = torch.tensor([rho], dtype=torch.float64).log().requires_grad_()
    at = Packing(torch.tensor([0]), torch.tensor([0]))
    loss, was_cut = clipped(log_rho, torch.tensor([advantage], dtype=torch.float64), at, 0.2, 0.2)
    close(torch.autograd.grad(loss.sum(), log_rho)[0], [expected], 14)
    assert was_cut.tolist() == [cut] and not was_cut.requires_grad
    close(loss.detach(), [-min(rho * advantage, min(max(rho, 0.8), 1.2) * advantage)], 14)


TG_LENGTHS = [4, 3]
TG_KEPT = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
TG_ADVANTAGES = torch.tensor([1.0, 1, 1, 1, -0.5, -0.5, -0.5], dtype=torch.float64)


def tg() -> TokenContext:
    logp, old, ref = (torch.tensor(p, dtype=torch.float64).log()[TG_KEPT] for p in (
        [[0.50, 0.30, 0.80, 0.60], [0.20, 0.90, 0.40, 0.70]],
        [[0.45, 0.40, 0.80, 0.50], [0.30, 0.85, 0.20, 0.70]],
        [[0.40, 0.35, 0.70, 0.60], [0.25, 0.80, 0.50, 0.60]]))
    return packed(logp.requires_grad_(), old, ref, TG_LENGTHS)


def reduced(x: Tensor, ctx: TokenContext, reduction: str) -> Tensor:
    """The reductions' weights are float32: 7 digits of a loss."""
    return (getattr(reductions, reduction)(ctx.batch.lengths, 8)[ctx.batch.seq_ids].double() * x).sum()


@pytest.mark.parametrize(("reduction", "expected"), [
    ("sequence", -0.1860702614), ("token", -0.3045284781), ("constant", -0.1332312092)], ids=["grpo", "dapo", "dr_grpo"])
def test_row_65_trl_losses(reduction, expected):
    ctx = tg()
    loss, _ = Grpo(reduction=reduction).loss(ctx, TG_ADVANTAGES)
    close(reduced(loss, ctx, reduction), expected, 7)


@pytest.mark.parametrize(("estimator", "expected"), [
    (Sampled(), -0.3038295350), (K3(), -0.3039309023)], ids=["bias-corrected", "published"])
def test_row_66_trl_dapo_with_kl(estimator, expected):
    """beta 0.04, clip-higher 0.28; TRL's `use_bias_correction_kl` is `sampled`, its classic form k3."""
    ctx = tg()
    loss, _ = Grpo(clip_high=0.28).loss(ctx, TG_ADVANTAGES)
    penalty = regularizer(ReverseKl(), estimator).penalty(ctx, NAME)
    close(reduced(loss + 0.04 * penalty.loss, ctx, "token"), expected, 7)


def test_every_key_of_grpo_is_alive():
    """Advantages and clips by their effect on TG, surrogate and reduction in row 65, epochs and minibatches in what counts as on-policy."""
    own = {"ceiling", "temperature", "temperature_negative"}  # by their effect below
    assert {f.name for f in fields(Grpo)} - own == {"advantage", "surrogate", "clip_low", "clip_high", "reduction", "epochs", "minibatches"}
    zeros = torch.zeros(4, dtype=torch.float64)
    batch = replace(packed(zeros, None, zeros, [1] * 4).batch, group_ids=torch.tensor([0, 0, 1, 1]),
                    rewards=torch.tensor([1.0, 0, 5, 0], dtype=torch.float64))
    of_batch = (17 / 3) ** 0.5 + 1e-4
    for word, first, second in (("group_standardised", 0.5**0.5 + 1e-4, 12.5**0.5 + 1e-4), ("batch_standardised", of_batch, of_batch),
                                ("group_centred", 1, 1), ("leave_one_out", 0.5, 0.5)):
        expected = torch.tensor([0.5 / first, -0.5 / first, 2.5 / second, -2.5 / second], dtype=torch.float64)
        close(Grpo(advantage=word).advantages(batch), expected, 12)

    # rho on TG: 1.111 .75 1 1.2 | .667 1.059 2; with A = 1 the high clip cuts, with A = -.5 the low one. 1.2 is left out: it sits
    # on the default bound, where rounding decides.
    for keys, cut in (({}, [0, 0, 0, 0, 1, 0, 0]), ({"clip_high": 0.1}, [1, 0, 0, 1, 1, 0, 0]), ({"clip_low": 0.4}, [0, 0, 0, 0, 0, 0, 0])):
        ctx = tg()
        rho = torch.exp(ctx.log_rho.detach())
        _, statistics = Grpo(**keys).loss(ctx, TG_ADVANTAGES)
        assert statistics["ratio/clipped"][rho != rho[3]].tolist() == [c for i, c in enumerate(cut) if i != 3]
        close(statistics["ratio/mean"], rho, 12)
    assert Grpo().on_policy and not Grpo(epochs=2).on_policy and not Grpo(minibatches=2).on_policy


@pytest.mark.parametrize("keys", [{"advantage": "std"}, {"surrogate": "ppo"}, {"clip_low": 0.0}, {"clip_low": 1.1}, {"clip_high": 0.0},
                                  {"clip_low": 0.3, "surrogate": "reinforce"}, {"clip_high": 0.3, "surrogate": "sapo"},
                                  {"ceiling": 4.0}, {"ceiling": 4.0, "surrogate": "sapo"}, {"ceiling": 1.2, "surrogate": "dual_clip"},
                                  {"temperature": 2.0}, {"temperature_negative": 2.0, "surrogate": "dual_clip"},
                                  {"temperature": 0.0, "surrogate": "sapo"}, {"temperature_negative": -1.0, "surrogate": "sapo"}])
def test_grpo_refuses_what_has_no_meaning(keys):
    with pytest.raises(ValueError, match=next(iter(keys))):
        Grpo(**keys)


def test_row_67_equal_lengths():
    lengths = torch.tensor([3, 3])
    token, sequence, constant = (getattr(reductions, name)(lengths, 8) for name in ("token", "sequence", "constant"))
    torch.testing.assert_close(token, sequence, rtol=1e-7, atol=0)
    torch.testing.assert_close(constant, token * 3 / 8, rtol=1e-7, atol=0)
    close(token, [1 / 6, 1 / 6], 7)


def test_reductions_of_unequal_lengths():
    """token: every token alike; sequence: every answer alike; constant: neither lengths nor their sum enter."""
    lengths = torch.tensor([4, 1])
    close(reductions.token(lengths, 8), [0.2, 0.2], 7)
    close(reductions.sequence(lengths, 8), [0.125, 0.5], 7)
    close(reductions.constant(lengths, 8), [1 / 16, 1 / 16], 7)


def test_supervised_loss_is_the_mean_negative_log_likelihood():
    ctx = tg()
    loss, _ = Sft().loss(ctx, None)
    close(reduced(loss, ctx, "token"), -ctx.logp.detach().mean(), 7)
    assert not Sft().samples and Sft().advantages(ctx.batch) is None


@pytest.mark.parametrize("garbage", [0, -(10**9), 2**62])
def test_row_79_padding_does_not_matter(garbage):
    """Response tokens are packed, so only `input_ids` has padding: its content, and more of it, change neither tokens nor a selection."""
    batch = tg().batch
    prompts = torch.tensor([2, 3])
    ids = torch.arange(20).reshape(2, 10)
    used = torch.arange(10) < (prompts + batch.lengths)[:, None]
    clean = replace(batch, input_ids=torch.where(used, ids, 0), prompt_lengths=prompts)
    dirty = replace(clean, input_ids=torch.cat([torch.where(used, ids, garbage), torch.full((2, 5), garbage)], 1))
    assert clean.tokens.tolist() == dirty.tokens.tolist() == [2, 3, 4, 5, 13, 14, 15]
    for sequence in (0, 1):
        parts = [b.select(torch.tensor([sequence])) for b in (clean, dirty)]
        assert torch.equal(parts[0].input_ids, parts[1].input_ids)
        assert parts[0].input_ids.shape == (1, 6)
        assert parts[0].tokens.tolist() == clean.tokens[clean.seq_ids == sequence].tolist()


@pytest.mark.parametrize("placement", ["loss", "reward"])
@pytest.mark.parametrize("credit", ["local", "summed", "sequence"])
@pytest.mark.parametrize("divergence", SHIPPED)
def test_row_80_beta_zero_is_the_bare_algorithm(divergence, credit, placement):
    """Bit for bit, loss and gradient."""
    results = []
    for regularized in (False, True):
        ctx = tg()
        advantages, extra = TG_ADVANTAGES, 0.0
        if regularized:
            penalty = regularizer(SHIPPED[divergence], Sampled(), placement, credit).penalty(ctx, NAME)
            if placement == "reward":
                advantages = advantages - 0.0 * penalty.reward
            else:
                extra = 0.0 * penalty.loss
        loss = reduced(Grpo().loss(ctx, advantages)[0] + extra, ctx, "token")
        results.append((loss.detach(), *torch.autograd.grad(loss, ctx.logp)))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert results[0][1].abs().max() > 0.05
