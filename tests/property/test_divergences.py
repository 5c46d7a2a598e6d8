"""What holds for every divergence, every chunking of the head and every split or order of a batch."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from unit.definitions import Known, every

from align.algorithms.grpo import Grpo
from align.coefficients.constant import Constant
from align.core import reductions
from align.core.logprobs import Compared, Head, exact_divergence, token_stats
from align.core.segments import prefix_sum, segment_sum, suffix_sum
from align.divergences import Divergence
from align.divergences.jensen_shannon import JensenShannon
from align.estimators.exact import Exact
from align.estimators.sampled import Sampled
from align.registry import _complete, resolve
from align.regularizers.composed import Composed
from align.types import Charge, RefScore, TokenBatch, TokenContext
from align.weightings.uniform import Uniform

KNOWN = every()
SHIPPED = {name: known.divergence for name, known in KNOWN.items()}
QUICK = settings(max_examples=40, deadline=None, derandomize=True, database=None)
OF_EACH = settings(QUICK, max_examples=10)
each = pytest.mark.parametrize("name", SHIPPED)
EPS32, EPS64 = torch.finfo(torch.float32).eps, torch.finfo(torch.float64).eps

log_ratios = st.lists(st.floats(1e-7, 20) | st.floats(-20, -1e-7), min_size=1, max_size=40).map(
    lambda x: torch.tensor(x, dtype=torch.float64))


def f_alone(divergence: Divergence) -> Divergence:
    """The same f, everything else by the contract's fallback."""
    return _complete(type("Own", (), {"f": lambda self, log_u: divergence.f(log_u)}), Divergence)()


class Hellinger:
    def f(self, log_u):
        return torch.expm1(log_u / 2) ** 2


OWN = _complete(Hellinger, Divergence)()


def assert_within(actual: Tensor, expected: Tensor, bound: Tensor | float):
    excess = (actual - expected).abs() - bound
    assert (excess <= 0).all(), f"off by {(actual - expected).abs().max():.3e} at {int(excess.argmax())}, allowed {bound}"


# One log-ratio


@each
@OF_EACH
@given(log_u=log_ratios)
def test_value_and_generator_are_positive_away_from_the_reference(name, log_u):
    assert (SHIPPED[name].value(log_u) > 0).all()
    assert (SHIPPED[name].generator(log_u) > 0).all()


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_is_zero_at_the_reference(name, dtype):
    zero, d = torch.zeros(3, dtype=dtype), SHIPPED[name]
    for of in (d, OWN):
        for x in (of.value(zero), of.generator(zero), of.coefficient(zero), of.f(zero)):
            assert torch.equal(x, zero) and x.dtype == dtype


@each
@OF_EACH
@given(log_u=log_ratios)
def test_one_f_behind_all_forms(name, log_u):
    """value = generator/u; the slope of the generator is the coefficient, that of f is f_prime; f and generator differ by a line."""
    d, u = SHIPPED[name], torch.exp(log_u)
    # Near u = 1 both are differences of terms of the size of log u.
    rounding = 8 * EPS64 * log_u.abs()
    assert_within(d.value(log_u), d.generator(log_u) / u, 1e-13 * d.value(log_u) + rounding * (1 + 1 / u))
    x = log_u.clone().requires_grad_()
    (slope,) = torch.autograd.grad(d.generator(x).sum(), x)
    assert_within(slope / u, d.coefficient(log_u), 1e-12 * d.coefficient(log_u).abs() + 8 * EPS64 * (1 + 1 / u))
    (slope,) = torch.autograd.grad(d.f(x).sum(), x)
    assert_within(slope / u, d.f_prime(log_u), 1e-12 * d.f_prime(log_u).abs() + 16 * EPS64 * (1 + 1 / u) * (1 + log_u.abs()))
    at_one = d.f_prime(torch.zeros((), dtype=torch.float64))
    assert_within(d.f(log_u) - at_one * (u - 1), d.generator(log_u), 1e-12 * d.generator(log_u) + 16 * EPS64 * (1 + u) * (1 + log_u.abs()))


@each
@OF_EACH
@given(log_u=log_ratios)
def test_closed_forms_agree_with_the_fallback(name, log_u):
    """What a user gets who writes f alone. Autograd differentiates by log u and divides by u, so rounding grows like 1/u."""
    d, own, u = SHIPPED[name], f_alone(SHIPPED[name]), torch.exp(log_u)
    small = 32 * EPS64 * (1 + log_u.abs())
    near_one = 1e-3 if name in ("tsallis_0.999", "tsallis_1.001") else 1.0
    assert_within(own.f_prime(log_u), d.f_prime(log_u), 1e-12 * d.f_prime(log_u).abs() + small * (1 + 1 / u) / near_one)
    assert_within(own.coefficient(log_u), d.coefficient(log_u), 1e-12 * d.coefficient(log_u).abs() + small * (1 + 1 / u) / near_one)
    assert_within(own.generator(log_u), d.generator(log_u), 1e-12 * d.generator(log_u) + small * (1 + u))
    assert_within(own.value(log_u), d.value(log_u), 1e-12 * d.value(log_u) + small * (1 + 1 / u))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_fallback_keeps_the_type_and_takes_any_shape(dtype):
    x = torch.linspace(-5, 5, 12, dtype=dtype).reshape(3, 4)
    for of in (OWN.f_prime, OWN.coefficient, OWN.generator, OWN.value):
        differentiable = of in (OWN.f_prime, OWN.coefficient)  # a preference link descends through them
        assert of(x).shape == (3, 4) and of(x).dtype == dtype and of(x.clone().requires_grad_()).requires_grad is differentiable
        assert not of(x).requires_grad


def high_precision(name: str, x: float) -> tuple[float, float, float]:
    """(c, k, khat) at log u = x from f'(u) - f'(1) and f(u) - f(1) - f'(1)(u - 1), with 60 digits."""
    _, definition, keys = KNOWN[name]
    with mpmath.workdps(60):
        u, one = mpmath.exp(mpmath.mpf(x)), mpmath.mpf(1)
        exact_keys = {key: mpmath.mpf(value) for key, value in keys.items()}

        def f(v):
            return definition(v, mpmath.log, **exact_keys)

        at_one = mpmath.diff(f, one)
        k = f(u) - at_one * (u - 1)
        return float(mpmath.diff(f, u) - at_one), float(k), float(k / u)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_digits(name, dtype):
    """Against 60 digits, |log u| from 1e-7 to 20: right to 24 roundings, and those of the exponents (8e-6 in float32 at worst)."""
    eps = torch.finfo(dtype).eps
    x = torch.cat([s * torch.logspace(-7, math.log10(20), 40, dtype=torch.float64) for s in (1, -1)]).to(dtype)
    c, k, khat = (torch.tensor(v, dtype=torch.float64) for v in zip(*(high_precision(name, v) for v in x.tolist()), strict=True))
    d, relative = SHIPPED[name], eps * (24 + 2 * x.double().abs())
    assert_within(d.coefficient(x).double(), c, relative * c.abs())
    assert_within(d.generator(x).double(), k, relative * k)
    assert_within(d.value(x).double(), khat, relative * khat)


@each
def test_float32_keeps_its_range(name):
    """No NaN for |log u| <= 80; to 1e-5 of float64 wherever float32 has such a number."""
    x = torch.linspace(-80, 80, 641)
    d = SHIPPED[name]
    for of in (d.coefficient, d.generator, d.value):
        found, expected = of(x), of(x.double())
        assert torch.isfinite(expected).all() and not torch.isnan(found).any()
        held = (expected.abs() < 1e37) & (expected.abs() > 1e-37)
        assert held.sum() > 150
        assert_within(found[held].double(), expected[held], 1e-5 * expected[held].abs())


@each
def test_full_support_is_a_coefficient_without_bound_at_zero(name):
    """f'(0+) = -inf: it has overflowed at u = e^-100000, or is still falling there."""
    near, far = SHIPPED[name].coefficient(torch.tensor([-1e4, -1e5], dtype=torch.float64)).tolist()
    assert SHIPPED[name].full_support == (far == -math.inf or far < near - 1)


def same(first: str, second: str, scale: float = 1.0):
    """Elementwise, in each of the three uses: the first is `scale` times the second."""
    x = torch.linspace(-20, 20, 401, dtype=torch.float64)
    for use in ("coefficient", "generator", "value"):
        found, expected = (getattr(known[0], use)(x) for known in (KNOWN[first], KNOWN[second]))
        torch.testing.assert_close(found, scale * expected, rtol=1e-12, atol=0)


def test_the_power_family_meets():
    """methods D: alpha and Cressie-Read are D^q/q with q = 1 - alpha = 1 + power; the KLs, chi-squareds and Hellinger are members."""
    same("pearson", "tsallis_2")
    same("hellinger", "tsallis_0.5")
    same("hellinger", "alpha_0.5", 0.5)
    same("cressie_read_-0.5", "alpha_0.5")
    same("alpha_0.5", "tsallis_0.5", 2.0)
    same("cressie_read_0", "reverse_kl")
    same("tsallis_1", "reverse_kl")
    same("cressie_read_-1", "forward_kl")


def test_limits_of_the_skewed():
    """lam = 0 is the KL itself; b = 1/2 is the Jensen-Shannon divergence, half of f-DPO's."""
    same("skew_kl_0", "forward_kl")
    same("skew_reverse_kl_0", "reverse_kl")
    same("generalised_jsd_0.5", "jensen_shannon", 0.5)


@pytest.mark.parametrize(("part", "keys", "reason"), [
    ("alpha", {"alpha": 0.0}, "reverse_kl"), ("alpha", {"alpha": 1.0}, "TRL's alpha is 1 - alpha"), ("alpha", {"alpha": math.nan}, "alpha"),
    ("cressie_read", {"power": math.inf}, "finite"), ("generalised_jsd", {"b": 0.0}, "forward_kl"),
    ("generalised_jsd", {"b": 1.0}, "reverse_kl"), ("renyi", {"q": 0.0}, "positive"), ("skew_kl", {"lam": 1.0}, "nothing is left"),
    ("skew_kl", {"lam": -0.1}, "forward_kl"), ("skew_reverse_kl", {"lam": 1.0}, "nothing is left"),
    ("skew_reverse_kl", {"lam": -0.1}, "reverse_kl"), ("tsallis", {"q": -1.0}, "positive"), ("tsallis", {"q": math.nan}, "positive"),
])
def test_keys_without_meaning_are_refused(part, keys, reason):
    with pytest.raises(ValueError, match=reason):
        resolve("divergence", part, "test")(**keys)


# One state


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits(bound: float):
    return st.lists(st.tuples(st.floats(-bound, bound), st.floats(-bound, bound)), min_size=2, max_size=8).map(
        lambda pairs: torch.tensor(pairs, dtype=torch.float64).T)


@each
@OF_EACH
@given(pair=logits(4.0), order=st.randoms(use_true_random=False))
def test_exact_divergence(name, pair, order):
    """Non-negative, 0 iff equal, the sum of the definition, blind to the order of the vocabulary; its gradient autograd's."""
    for divergence, known in ((SHIPPED[name], KNOWN[name]), (OWN, KNOWN["hellinger"])):
        policy = pair[0].clone().requires_grad_()
        logp, ref = torch.log_softmax(policy, -1), torch.log_softmax(pair[1], -1)
        found = exact_divergence(divergence, logp, ref)
        definition = known.of_mean((ref.exp() * divergence.f(logp - ref)).sum())
        assert_within(found, definition, 1e-12 * definition + 1e-13)
        assert found >= 0
        assert found > 1e-7 or (logp.exp() - ref.exp()).abs().max() < 1e-3, "Pinsker's inequality"
        (grad,) = torch.autograd.grad(found, policy, retain_graph=True)
        (expected,) = torch.autograd.grad(definition, policy)
        assert_within(grad, expected, 1e-11 * (1 + expected.abs().max()))
        permutation = list(range(pair.shape[1]))
        order.shuffle(permutation)
        assert_within(exact_divergence(divergence, logp[permutation], ref[permutation]), found, 1e-13 * found + 1e-15)
        assert exact_divergence(divergence, logp, logp.detach()) == 0


def float32_holds(known: Known, reach: float) -> bool:
    """At every |log u| <= reach: the value, and u c, which float32 knows only down to u = e^-80."""
    divergence, ends = known.divergence, torch.tensor([-reach, reach, -79.0], dtype=torch.float64)
    ends_in_range = divergence.value(ends[1]) < 1e37 and divergence.generator(ends[0]) < 1e37
    far, _, near = ends.exp() * divergence.coefficient(ends)
    return bool(ends_in_range and (far - near).abs() < 1e-5 and divergence.is_f_divergence)


@each
@OF_EACH
@given(pair=logits(80.0), impossible=st.integers(0, 3))
def test_extreme_logits(name, pair, impossible):
    """Logits to +-80 and outcomes impossible under both sides: finite, as without those outcomes, and float32 agrees with float64.

    float32 holds log-probs of size 160 to 8e-6; where D itself leaves its range (E_pi u at q = 2) it is asked to stay finite.
    """
    gone = torch.full((2, impossible), -math.inf, dtype=torch.float64)
    results = {}
    for dtype in (torch.float64, torch.float32):
        for padding in (gone, gone[:, :0]):
            policy = torch.cat([pair, padding], 1)[0].to(dtype).requires_grad_()
            ref = torch.log_softmax(torch.cat([pair, padding], 1)[1].to(dtype), -1)
            value = exact_divergence(SHIPPED[name], torch.log_softmax(policy, -1), ref)
            (grad,) = torch.autograd.grad(value, policy)
            results[dtype, padding.shape[1]] = value.detach().double(), grad[: pair.shape[1]].double()
            assert torch.isfinite(value) and torch.isfinite(grad).all() and value >= 0
            assert (grad[pair.shape[1] :] == 0).all()
    value, grad = results[torch.float64, 0]
    assert_within(results[torch.float64, impossible][0], value, 1e-13 * value)
    assert_within(results[torch.float64, impossible][1], grad, 1e-13 * grad.abs().max() + 1e-15)
    if float32_holds(KNOWN[name], 320.0):
        single, single_grad = results[torch.float32, impossible]
        assert_within(single, value, 1e-4 * value + 1e-5)
        assert_within(single_grad, grad, 1e-4 * (grad.abs().max() + value) + 1e-5)


def test_float32_holds_most_divergences():
    """The rest have a polynomial tail, or are powers so near a KL that u c still falls below u = e^-80, or end early (Renyi)."""
    assert {name for name, known in KNOWN.items() if not float32_holds(known, 320.0)} == {
        "alpha_0.999", "chi_squared_kl", "cressie_read_-2.5", "cressie_read_0.666667", "cressie_read_3", "neyman", "pearson", "renyi_0.5",
        "renyi_1", "renyi_2", "tsallis_0.01", "tsallis_1.5", "tsallis_2"}


BOUNDS = {
    "alpha_0.3": 1 / 0.21, "alpha_0.5": 4, "alpha_0.01": 1 / 0.0099, "alpha_0.999": 1 / 0.000999, "cressie_read_-0.5": 4, "hellinger": 2,
    "generalised_jsd_0.3": -0.3 * math.log(0.3) - 0.7 * math.log(0.7), "generalised_jsd_0.5": math.log(2),
    "generalised_jsd_0.01": -0.01 * math.log(0.01) - 0.99 * math.log(0.99), "jensen_shannon": 2 * math.log(2),
    "generalised_jsd_0.99": -0.01 * math.log(0.01) - 0.99 * math.log(0.99), "skew_kl_0.1": math.log(10), "skew_kl_0.5": math.log(2),
    "skew_kl_0.9": -math.log(0.9), "skew_reverse_kl_0.1": math.log(10), "skew_reverse_kl_0.5": math.log(2),
    "skew_reverse_kl_0.9": -math.log(0.9), "total_variation": 1, "tsallis_0.3": 1 / 0.7,
    "tsallis_0.5": 2, "tsallis_0.01": 1 / 0.99, "tsallis_0.999": 1000,
}
"""Of two distributions with nothing in common: what the docstrings promise."""


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_in_common(name, dtype):
    """The bound of a bounded divergence to 8 roundings; where there is none, a number so large that nobody takes it for one."""
    split = torch.tensor([[0.25, 0.75, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]], dtype=dtype).log()
    for pi, ref in (split, split.flip(0)):
        logits = pi.clone().requires_grad_()
        value = exact_divergence(SHIPPED[name], torch.log_softmax(logits, -1), ref)
        (grad,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(grad).all()
        if name in BOUNDS:
            torch.testing.assert_close(value.detach(), torch.tensor(BOUNDS[name], dtype=dtype), rtol=8 * torch.finfo(dtype).eps, atol=0)
        else:
            finfo = torch.finfo(dtype)
            order = {"renyi_0.5": 1.99 * math.log(1 / finfo.eps), "renyi_2": 0.97 * math.log(finfo.max)}
            assert order.get(name, finfo.max / 1e3) <= value < math.inf


# The head


@settings(QUICK, max_examples=15)
@given(tokens=st.integers(1, 24), elements=st.integers(1, 3000), seed=st.integers(0, 10**6))
def test_chunks_of_the_head_change_nothing(tokens, elements, seed):
    vocabulary, width = 23, 4
    weight, ref_weight = normal(vocabulary, width, seed=seed).requires_grad_(), normal(vocabulary, width, seed=seed + 1)
    hidden, ref_hidden = normal(tokens, width, seed=seed + 2).requires_grad_(), normal(tokens, width, seed=seed + 3)
    labels = torch.arange(tokens) * 7 % vocabulary
    compared = {n: Compared(SHIPPED[n], ref_hidden, Head(ref_weight)) for n in ("reverse_kl", "jensen_shannon")}
    results = []
    for chunk in (elements, 1 << 30):
        stats = token_stats(hidden, Head(weight), labels, temperature=0.8, compared=compared, elements=chunk)
        total = (stats.logp * torch.arange(1, tokens + 1)).sum() + sum((e**2).sum() for e in stats.exact.values())
        results.append([stats.logp, stats.entropy, *stats.exact.values(), *torch.autograd.grad(total, (hidden, weight))])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# Batches


class World:
    """Sequences with everything a batch can carry, and a linear policy on fixed hidden states: [sum of lengths] tokens in all."""

    width, vocabulary = 3, 6

    def __init__(self, lengths: list[int], seed: int):
        self.lengths = lengths
        self.rows = torch.arange(sum(lengths)).split(lengths)
        total = sum(lengths)
        self.hidden, self.ref_hidden = normal(2, total, self.width, seed=seed)
        self.weight, self.ref_weight = normal(2, self.vocabulary, self.width, seed=seed + 1)
        self.labels = torch.arange(total) * 5 % self.vocabulary
        self.sampler, self.drift, self.advantage, self.penalty_weight, self.entropy = normal(5, total, seed=seed + 2)
        self.reward = normal(len(lengths), seed=seed + 3)
        self.ref_logp = token_stats(self.ref_hidden, Head(self.ref_weight), self.labels).logp
        self.old_logp = token_stats(self.hidden, Head(self.weight), self.labels).logp + 0.1 * self.drift

    def batch(self, order: list[int], reduction: str) -> tuple[TokenBatch, Tensor]:
        """The batch with its sequences in this order, and the hidden states of its tokens."""
        lengths = torch.tensor([self.lengths[s] for s in order])
        at = torch.cat([self.rows[s] for s in order])
        seq_ids = torch.repeat_interleave(torch.arange(len(order)), lengths)
        positions = torch.cat([torch.arange(n) for n in lengths])
        prompts = torch.tensor([1 + s % 3 for s in order])
        ids = torch.full((len(order), int((prompts + lengths).max()) + 2), -1)
        ids[seq_ids, prompts[seq_ids] + positions] = self.labels[at]
        weights = getattr(reductions, reduction)(lengths, 9).double()[seq_ids]
        return TokenBatch(
            input_ids=ids, prompt_lengths=prompts, lengths=lengths, seq_ids=seq_ids, positions=positions,
            group_ids=torch.tensor([s // 2 for s in order]), prompt_ids=tuple(str(s // 2) for s in order),
            rewards=self.reward[order], sampler_logp=self.sampler[at], old_logp=self.old_logp[at], entropy=self.entropy[at],
            references={"r": RefScore(logp=self.ref_logp[at], hidden=self.ref_hidden[at])},
            advantages=self.advantage[at], loss_weights=weights, penalty_weights={"r": self.penalty_weight[at].abs()}, betas={"r": 0.3},
            multipliers={"r": self.reward[order].abs()}, contexts={"r": self.advantage[at].abs()},
            values=self.advantage[at] + 1, returns=self.advantage[at] - 1, inside=self.advantage[at] + 2,
            charges={"r": Charge(reward=self.advantage[at].abs(), own=self.advantage[at] / 2)},
        ), self.hidden[at]

    def loss(self, batch: TokenBatch, hidden: Tensor, weight: Tensor, regularizer: Composed) -> Tensor:
        """The learner's sum: the policy term, and the penalty in the loss or taken from the advantages."""
        compared = {"r": Compared(regularizer.divergence, batch.references["r"].hidden, Head(self.ref_weight))}
        stats = token_stats(hidden, Head(weight), batch.tokens, compared=compared if regularizer.full_vocabulary else {})
        ctx = TokenContext(batch=batch, logp=stats.logp, entropy=stats.entropy, exact=stats.exact)
        penalty, beta, advantages = regularizer.penalty(ctx, "r"), batch.betas["r"], batch.advantages
        extra = torch.zeros(())
        if penalty.reward is None:
            extra = beta * penalty.loss
        else:
            advantages = advantages - beta * penalty.reward
        return (batch.loss_weights * (Grpo().loss(ctx, advantages)[0] + extra)).sum()

    def total(self, parts: list[tuple[TokenBatch, Tensor]], regularizer: Composed) -> tuple[Tensor, Tensor]:
        weight = self.weight.clone().requires_grad_()
        loss = sum(self.loss(batch, hidden, weight, regularizer) for batch, hidden in parts)
        return loss.detach(), torch.autograd.grad(loss, weight)[0]


FORMS = [(e, p, c) for e, p in (("sampled", "loss"), ("sampled", "reward"), ("exact", "loss")) for c in ("local", "summed", "sequence")
         if (e, c) != ("exact", "sequence")]
all_forms = pytest.mark.parametrize(("estimator", "placement", "credit"), FORMS, ids=lambda word: word)
all_reductions = pytest.mark.parametrize("reduction", ["token", "sequence", "constant"])
worlds = st.builds(World, st.lists(st.integers(1, 5), min_size=2, max_size=7), st.integers(0, 10**6))


def form(estimator: str, placement: str, credit: str) -> Composed:
    return Composed(divergence=JensenShannon(), estimator={"sampled": Sampled(), "exact": Exact()}[estimator], coefficient=Constant(0.3),
                    weighting=Uniform(), reference=None, placement=placement, credit=credit)


@all_forms
@all_reductions
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(world=worlds, data=st.data())
def test_micro_batches_change_nothing(estimator, placement, credit, reduction, world, data):
    """Any split of the batch by `select`: the sum of losses and of gradients is that of the whole."""
    count = len(world.lengths)
    piece = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    batch, hidden = world.batch(list(range(count)), reduction)
    parts = [(batch.select(torch.nonzero(piece == p)[:, 0]), hidden[piece[batch.seq_ids] == p]) for p in piece.unique()]
    regularizer = form(estimator, placement, credit)
    for found, expected in zip(world.total(parts, regularizer), world.total([(batch, hidden)], regularizer), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@all_forms
@all_reductions
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(world=worlds, order=st.randoms(use_true_random=False))
def test_the_order_of_packing_changes_nothing(estimator, placement, credit, reduction, world, order):
    shuffled = list(range(len(world.lengths)))
    order.shuffle(shuffled)
    regularizer = form(estimator, placement, credit)
    totals = [world.total([world.batch(o, reduction)], regularizer) for o in (shuffled, sorted(shuffled))]
    for found, expected in zip(*totals, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@QUICK
@given(world=worlds, data=st.data())
def test_select_takes_every_field_along(world, data):
    """Each field of a selection is that of the sequences packed alone; only columns nobody needs are cut."""
    count = len(world.lengths)
    chosen = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    whole, _ = world.batch(list(range(count)), "token")
    alone, _ = world.batch(chosen, "token")
    selected = whole.select(torch.tensor(chosen))
    width = int((alone.prompt_lengths + alone.lengths).max())
    alone = replace(alone, input_ids=alone.input_ids[:, :width], loss_weights=whole.loss_weights[: len(alone.seq_ids)])
    for field in fields(TokenBatch):
        found, expected = getattr(selected, field.name), getattr(alone, field.name)
        if field.name == "references":
            assert torch.equal(found["r"].logp, expected["r"].logp) and torch.equal(found["r"].hidden, expected["r"].hidden)
        elif field.name == "charges":
            assert torch.equal(found["r"].reward, expected["r"].reward) and torch.equal(found["r"].own, expected["r"].own)
        elif field.name in ("penalty_weights", "multipliers", "contexts"):
            assert torch.equal(found["r"], expected["r"])
        elif field.name in ("betas", "prompt_ids", "step", "shaped"):
            assert found == expected
        else:
            assert torch.equal(found, expected), field.name


def test_a_batch_moves_whole():
    """Every tensor of it, on a device that holds no numbers; what is none stays."""
    whole, _ = World([2, 1], 0).batch([0, 1], "token")
    moved = whole.to(torch.device("meta"))
    tensors = [getattr(moved, f.name) for f in fields(TokenBatch)]
    tensors += [*moved.penalty_weights.values(), *moved.multipliers.values(), *moved.contexts.values(), moved.references["r"].logp,
                moved.references["r"].hidden, moved.charges["r"].reward, moved.charges["r"].own]
    tensors = [t for t in tensors if isinstance(t, Tensor)]
    assert len(tensors) == 22 and all(t.device.type == "meta" for t in tensors)
    assert moved.betas == whole.betas and whole.to(torch.device("cpu")) is whole


@all_forms
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(world=worlds, beta=st.floats(0, 5))
def test_linear_in_beta(estimator, placement, credit, world, beta):
    """loss(beta) - loss(0) = beta (loss(1) - loss(0)), gradients alike; in the reward as long as no clip binds."""
    batch, hidden = world.batch(list(range(len(world.lengths))), "token")
    batch = replace(batch, old_logp=None)
    regularizer = form(estimator, placement, credit)
    totals = [world.total([(replace(batch, betas={"r": b}), hidden)], regularizer) for b in (0.0, 1.0, beta)]
    for zero, one, scaled in zip(*totals, strict=True):
        torch.testing.assert_close(scaled - zero, beta * (one - zero), rtol=1e-10, atol=1e-11)


@all_forms
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(world=worlds, scale=st.floats(0, 5))
def test_linear_in_the_weighting(estimator, placement, credit, world, scale):
    batch, hidden = world.batch(list(range(len(world.lengths))), "token")
    batch = replace(batch, old_logp=None)
    weights, regularizer = batch.penalty_weights["r"], form(estimator, placement, credit)
    totals = [world.total([(replace(batch, penalty_weights={"r": s * weights}), hidden)], regularizer) for s in (0.0, 1.0, scale)]
    for zero, one, scaled in zip(*totals, strict=True):
        torch.testing.assert_close(scaled - zero, scale * (one - zero), rtol=1e-10, atol=1e-11)


@QUICK
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6), seed=st.integers(0, 10**6))
def test_segment_sums(lengths, seed):
    """Against plain loops, with an outlier that must not take the digits of its neighbours (float32)."""
    seq_ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    positions = torch.cat([torch.arange(n) for n in lengths])
    x = normal(sum(lengths), seed=seed).float().abs() + 0.1
    x[seed % len(x)] = 3e7
    rows = x.split(lengths)
    later = torch.cat([torch.stack([r[i + 1 :].double().sum() for i in range(len(r))]) for r in rows])
    so_far = torch.cat([torch.stack([r[: i + 1].double().sum() for i in range(len(r))]) for r in rows])
    torch.testing.assert_close(suffix_sum(x, seq_ids, positions).double(), later, rtol=1e-6, atol=0)
    torch.testing.assert_close(prefix_sum(x, seq_ids, positions).double(), so_far, rtol=1e-6, atol=0)
    totals = torch.stack([r.double().sum() for r in rows])
    torch.testing.assert_close(segment_sum(x, seq_ids, len(lengths)).double(), totals, rtol=1e-6, atol=0)
