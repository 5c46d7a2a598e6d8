"""What holds for the exact form of every divergence at one state, and for every chunking of the head."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.definitions import Known
from hypothesis import given, settings
from hypothesis import strategies as st
from property.divergences import KNOWN, OF_EACH, OWN, QUICK, SHIPPED, assert_within, each, normal

from align.core.logprobs import Compared, Head, exact_divergence, token_stats


def logits(bound: float):
    return st.lists(st.tuples(st.floats(-bound, bound), st.floats(-bound, bound)), min_size=2, max_size=8).map(
        lambda pairs: torch.tensor(pairs, dtype=torch.float64).T
    )


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
    ends_in_range = divergence.khat(ends[1]) < 1e37 and divergence.bregman(ends[0]) < 1e37
    far, _, near = ends.exp() * divergence.grad_weight(ends)
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
        "alpha_0.999",
        "chi_squared_kl",
        "cressie_read_-2.5",
        "cressie_read_0.666667",
        "cressie_read_3",
        "neyman",
        "pearson",
        "renyi_0.5",
        "renyi_1",
        "renyi_2",
        "tsallis_0.01",
        "tsallis_1.5",
        "tsallis_2",
    }


BOUNDS = {
    "alpha_0.3": 1 / 0.21,
    "alpha_0.5": 4,
    "alpha_0.01": 1 / 0.0099,
    "alpha_0.999": 1 / 0.000999,
    "cressie_read_-0.5": 4,
    "hellinger": 2,
    "generalised_jsd_0.3": -0.3 * math.log(0.3) - 0.7 * math.log(0.7),
    "generalised_jsd_0.5": math.log(2),
    "generalised_jsd_0.01": -0.01 * math.log(0.01) - 0.99 * math.log(0.99),
    "jensen_shannon": 2 * math.log(2),
    "generalised_jsd_0.99": -0.01 * math.log(0.01) - 0.99 * math.log(0.99),
    "skew_kl_0.1": math.log(10),
    "skew_kl_0.5": math.log(2),
    "skew_kl_0.9": -math.log(0.9),
    "skew_reverse_kl_0.1": math.log(10),
    "skew_reverse_kl_0.5": math.log(2),
    "skew_reverse_kl_0.9": -math.log(0.9),
    "total_variation": 1,
    "tsallis_0.3": 1 / 0.7,
    "tsallis_0.5": 2,
    "tsallis_0.01": 1 / 0.99,
    "tsallis_0.999": 1000,
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
