"""The Triton row kernels on a real device: vocabularies of real size, every type, offsets beyond 2^31."""

import pytest
import torch
from problems import CASES, DEVICE, normal, of_logits, worst

from align_kernels import token_stats

VOCABULARIES = [151936, 128255, 32001, 200, 1]
"""Of a model, odd tails, one block, one token."""
ERRORS = {torch.float32: 4e-6, torch.float16: 2e-3, torch.bfloat16: 8e-3}
"""Of a gradient, by its type: one rounding."""


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("name", CASES)
def test_every_divergence_against_float64(name, dtype):
    tokens, vocabulary = 5, 50003
    z, noise = 3 * normal(tokens, vocabulary, seed=0), normal(tokens, vocabulary, seed=1)
    z, u = z.to(dtype).requires_grad_(), (z + 0.3 * noise).to(dtype)
    labels = torch.tensor([0, 1, 777, vocabulary - 2, vocabulary - 1], device=DEVICE)
    leaf = z.detach().double().requires_grad_()
    expected = of_logits(CASES[name], leaf / 0.8, u.double() / 0.8, labels)
    found = token_stats(z, labels, u, CASES[name].f, temperature=0.8, backend="triton")
    weights = normal(3, tokens, seed=2)
    for value, wanted in zip((found.logp, found.entropy, found.div), expected, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), wanted, rtol=5e-6, atol=2e-6)
    (grad,) = torch.autograd.grad((weights[0] * found.logp + weights[1] * found.entropy + weights[2] * found.div).sum(), z)
    (truth,) = torch.autograd.grad((weights[0] * expected[0] + weights[1] * expected[1] + weights[2] * expected[2]).sum(), leaf)
    assert grad.dtype == dtype and worst(grad, truth) < ERRORS[dtype]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_any_vocabulary(vocabulary):
    z, u = normal(3, vocabulary, seed=0).requires_grad_(), normal(3, vocabulary, seed=1)
    labels = torch.tensor([0, vocabulary // 2, vocabulary - 1], device=DEVICE)
    leaf = z.detach().double().requires_grad_()
    expected, found = of_logits(CASES["reverse_kl"], leaf, u, labels), token_stats(z, labels, u, CASES["reverse_kl"].f, backend="triton")
    for value, wanted in zip((found.logp, found.entropy, found.div), expected, strict=True):
        torch.testing.assert_close(value.double(), wanted, rtol=5e-6, atol=2e-6)
    grads = [torch.autograd.grad((s[0] + s[-1]).sum(), leaf_of)[0] for s, leaf_of in ((found, z), (expected, leaf))]
    assert (grads[0].double() - grads[1]).abs().max() < 4e-6


def test_rows_beyond_two_to_the_31():
    """14 200 rows of 151 936: the last ones start beyond what a 32-bit offset reaches."""
    tokens, vocabulary = 14200, 151936
    assert tokens * vocabulary > 2**31
    z = torch.zeros(tokens, vocabulary, dtype=torch.bfloat16, device=DEVICE)
    z[-3:] = normal(3, vocabulary, seed=0, dtype=torch.bfloat16)
    labels = torch.arange(tokens, device=DEVICE)
    logp = token_stats(z.requires_grad_(), labels, backend="triton").logp
    expected = torch.log_softmax(z[-3:].detach().double(), -1).gather(1, labels[-3:, None])[:, 0]
    torch.testing.assert_close(logp[-3:].double(), expected, rtol=2e-6, atol=2e-6)
    (grad,) = torch.autograd.grad(logp[-3:].sum(), z)
    assert grad[:-3].abs().max() == 0
    leaf = z[-3:].detach().double().requires_grad_()
    (truth,) = torch.autograd.grad(torch.log_softmax(leaf, -1).gather(1, labels[-3:, None]).sum(), leaf)
    assert worst(grad[-3:], truth) < 8e-3


@pytest.mark.parametrize("drift", [1e-2, 3e-2])
def test_a_small_divergence_keeps_its_digits(drift):
    """KL near 3.6e-5 and 2.4e-4, at a real vocabulary, within 1e-4 of itself."""
    z = 4.5 * normal(4, 151936, seed=0)
    u, labels = z + drift * normal(4, 151936, seed=1), torch.zeros(4, dtype=torch.int64, device=DEVICE)
    expected = of_logits(CASES["reverse_kl"], z, u, labels)[2]
    found = token_stats(z, labels, u, CASES["reverse_kl"].f, backend="triton").div
    assert ((found.double() - expected).abs() <= 1e-4 * expected).all(), (found, expected)


def test_equal_rows_and_impossible_tokens():
    z = normal(3, 4099, seed=0)
    z[:, 100:3000] = -torch.inf
    labels = torch.tensor([0, 50, 4098], device=DEVICE)
    leaf = z.clone().requires_grad_()
    for case in CASES.values():
        div = token_stats(leaf, labels, z, case.f, backend="triton").div
        (grad,) = torch.autograd.grad(div.sum(), leaf)
        assert (div == 0).all() and (grad == 0).all()
    found = token_stats(leaf, labels, backend="triton")
    rest = torch.cat([z[:, :100], z[:, 3000:]], 1)
    expected = torch.log_softmax(rest.double(), -1)
    torch.testing.assert_close(found.entropy.double(), -(expected.exp() * expected).sum(-1), rtol=2e-6, atol=2e-6)
