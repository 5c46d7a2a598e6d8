"""Merging all but k tokens: at most the divergence, the divergence itself where nothing is merged, its digits kept in a small rest."""

import math

import pytest
import torch
from helpers.definitions import every
from torch import Tensor

from align.core.logprobs import exact_divergence
from align.divergences.reverse_kl import ReverseKl
from align.estimators import Estimator
from align.estimators.top_k import TopK

KNOWN = every(settings=2)
CONVEX = [name for name in KNOWN if name != "k2_functional"]
"""k2's functional is no divergence, and merging may raise it."""


def pair(count: int, vocabulary: int, spread: float = 2.0, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """log pi and log ref, [count, vocabulary], unrelated."""
    generator = torch.Generator().manual_seed(11)
    logits = spread * torch.randn(2, count, vocabulary, generator=generator, dtype=dtype)
    return torch.log_softmax(logits[0], -1), torch.log_softmax(logits[1], -1)


@pytest.mark.parametrize("name", CONVEX)
def test_a_coarser_view_never_shows_more(name):
    """0 < D(k = 1) <= ... <= D(k = V) = D, state by state: each k merges what the next one tells apart."""
    logp, ref = pair(20, 7)
    measured = torch.stack([exact_divergence(KNOWN[name].divergence, *TopK(k=k).outcomes(logp, ref)) for k in range(1, 8)])
    assert (measured[0] > 0).all()
    assert (measured.diff(dim=0) >= -1e-12 * measured[-1]).all()
    assert (measured[-1] > measured[0] * (1 + 1e-6)).all()
    assert torch.equal(measured[-1], exact_divergence(KNOWN[name].divergence, logp, ref))


@pytest.mark.parametrize("k", [7, 8, 1000])
def test_k_of_the_whole_vocabulary_is_exact(k):
    logp, ref = pair(5, 7)
    outcomes = TopK(k=k).outcomes(logp, ref)
    assert outcomes[0] is logp and outcomes[1] is ref


def test_outcomes_are_the_references_favourites_and_the_rest():
    ref = torch.tensor([[0.1, 0.5, 0.05, 0.3, 0.05], [0.3, 0.1, 0.1, 0.1, 0.4]], dtype=torch.float64)
    pi = torch.tensor([[0.7, 0.1, 0.1, 0.05, 0.05], [0.1, 0.2, 0.3, 0.4, 0.0]], dtype=torch.float64)
    merged, base = TopK(k=2).outcomes(pi.log(), ref.log())
    torch.testing.assert_close(base.exp(), torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3]], dtype=torch.float64), rtol=1e-14, atol=0)
    torch.testing.assert_close(merged.exp(), torch.tensor([[0.1, 0.05, 0.85], [0.0, 0.1, 0.9]], dtype=torch.float64), rtol=1e-14, atol=0)


def test_a_small_rest_keeps_its_digits():
    """A rest of e^-30 to e^-80 would be 1 - 1 in float32; its logarithm is right to 2 roundings of its size, and so is its gradient."""
    for depth in (30.0, 80.0):
        logits = torch.tensor([[0.0, 0.5, -depth, -depth - 1, -depth + 0.3]])
        single, double = (torch.log_softmax(logits.to(d), -1).requires_grad_() for d in (torch.float32, torch.float64))
        found, expected = (TopK(k=2).outcomes(x, x.detach())[0][0, 2] for x in (single, double))
        assert abs(found.item() - expected.item()) < 2 * depth * torch.finfo(torch.float32).eps
        grads = [torch.autograd.grad(t, x)[0] for t, x in ((found, single), (expected, double))]
        torch.testing.assert_close(grads[0].double(), grads[1], rtol=1e-4, atol=0)


def test_a_rest_that_cannot_happen_pulls_at_nothing():
    """Tokens nobody can draw: as if they were not there, in value and gradient, on one side or on both."""
    logits, ref = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64), torch.tensor([0.1, 0.7, 0.4], dtype=torch.float64).log_softmax(-1)
    impossible = torch.full((2,), -math.inf, dtype=torch.float64)
    results = []
    for padding in (impossible, impossible[:0]):
        leaf = torch.cat([logits, padding]).requires_grad_()
        outcomes = TopK(k=3).outcomes(torch.log_softmax(leaf, -1)[None], torch.cat([ref, padding])[None])
        value = exact_divergence(ReverseKl(), *outcomes)
        results.append((value, torch.autograd.grad(value.sum(), leaf)[0][:3]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-14, atol=1e-16)
    leaf = torch.cat([logits, impossible]).requires_grad_()
    outcomes = TopK(k=3).outcomes(torch.log_softmax(leaf, -1)[None], torch.log_softmax(torch.arange(5.0, 0, -1).double(), -1)[None])
    grad = torch.autograd.grad(exact_divergence(ReverseKl(), *outcomes).sum(), leaf)[0]
    assert torch.isfinite(grad).all() and grad[:3].abs().max() > 1e-2


def test_k_is_at_least_one():
    with pytest.raises(ValueError, match="every divergence is 0"):
        TopK(k=0)


def test_only_an_estimator_with_outcomes_of_its_own_merges():
    class Parity(Estimator):
        def outcomes(self, logp, ref_logp):
            return logp[:, :2].logaddexp(logp[:, 2:4]), ref_logp[:, :2].logaddexp(ref_logp[:, 2:4])

    assert TopK().merges and Parity().merges and not Estimator().merges
