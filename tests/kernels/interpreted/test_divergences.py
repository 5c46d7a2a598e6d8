"""Every divergence, forward and backward, against float64."""

import functools

import pytest
import torch
from kernels.interpreted.passes import error, passes, row_errors, small_tiles
from kernels.room import DIVERGENCES, REPRESENTATIVES, defined, logits, oracle

from align_kernels.codegen import Elementwise, fused

T, V = 2, 139
STATISTIC, VALUE, GRADIENT, ROUNDED_GRADIENT = 1e-6, 5e-6, 2e-6, 2**-7


@pytest.fixture(autouse=True)
def _tiles(monkeypatch):
    small_tiles(monkeypatch)


def weights(dtype=torch.float32):
    return torch.randn(3, T, generator=torch.Generator().manual_seed(9)).to(dtype)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_against_float64(name):
    """Tokens at 3e-4 nats and at some tenths of one, each on its own scale."""
    z, u, labels = logits(T, V, torch.tensor([[0.03], [1.0]]))
    of = functools.partial(defined, DIVERGENCES[name])
    stats, grad = passes(z, u, labels, fused(DIVERGENCES[name]), weights())
    exact, exact_grad = oracle(z, u, labels, of, weights())
    assert error(stats["logp"], exact["logp"]) < STATISTIC
    assert error(stats["entropy"], exact["entropy"]) < STATISTIC
    assert (row_errors(stats["div"], exact["div"]) < VALUE).all()
    assert (row_errors(grad, exact_grad) < GRADIENT).all()


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_gradient_of_the_divergence_alone_near_the_reference(name):
    z, u, labels = logits(T, V, 1e-3)
    w = weights() * torch.tensor([[0.0], [0.0], [1.0]])
    _, grad = passes(z, u, labels, fused(DIVERGENCES[name]), w)
    _, exact = oracle(z, u, labels, functools.partial(defined, DIVERGENCES[name]), w)
    # A thousandth of a nat lies between policy and reference, and lse is good to a millionth.
    assert error(grad, exact) < 1e-3


@pytest.mark.parametrize(("name", "dtype"), [("reverse_kl", torch.bfloat16), ("generalised_jsd", torch.float16)])
def test_sixteen_bit_logits_and_gradient(name, dtype):
    z, u, labels = logits(T, V, 0.3, dtype=dtype)
    stats, grad = passes(z, u, labels, fused(DIVERGENCES[name]), weights(), out=torch.empty(T, V, dtype=dtype))
    exact, exact_grad = oracle(z, u, labels, functools.partial(defined, DIVERGENCES[name]), weights())
    assert error(stats["logp"], exact["logp"]) < STATISTIC
    assert error(stats["div"], exact["div"]) < VALUE
    assert grad.dtype == dtype
    # The interpreter truncates to bfloat16 where hardware rounds.
    assert error(grad, exact_grad) < ROUNDED_GRADIENT


def huber(a, b, width):
    d = a - b
    return torch.exp(b) * torch.where(d.abs() < width, 0.5 * d * d, width * (d.abs() - 0.5 * width))


def test_a_function_of_both_log_probs_with_a_parameter_that_may_change():
    z, u, labels = logits(T, V, 1.0)
    for width in (0.5, 1.5):
        fn = fused(Elementwise(huber, params=(width,)))
        stats, grad = passes(z, u, labels, fn, weights())
        exact, exact_grad = oracle(z, u, labels, lambda a, b, width=width: huber(a, b, width).sum(-1), weights())
        assert error(stats["div"], exact["div"]) < VALUE
        assert error(grad, exact_grad) < GRADIENT
    assert fn.hash == fused(Elementwise(huber, params=(0.7,))).hash, "another number is no other kernel"


def test_a_function_of_the_policy_alone():
    z, u, labels = logits(T, V, 1.0)

    def negative_entropy(a, b):
        return torch.exp(a) * a

    stats, grad = passes(z, u, labels, fused(Elementwise(negative_entropy)), weights())
    exact, exact_grad = oracle(z, u, labels, lambda a, b: (a.exp() * a).sum(-1), weights())
    assert error(stats["div"], exact["div"]) < VALUE
    assert error(grad, exact_grad) < GRADIENT
