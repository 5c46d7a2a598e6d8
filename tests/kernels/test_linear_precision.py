"""Digits: half-precision operands have float32 logits, and a small divergence is not lost in them."""

import math

import pytest
import torch
from kernels.heads import H, T, V, chi2, direct, direct_logits, kl, make_head, normal

from align.divergences.pearson import Pearson
from align.divergences.reverse_kl import ReverseKl
from align.divergences.total_variation import TotalVariation
from align_kernels import Compared, Head, linear_stats, linear_token_stats, merge, token_stats, torch_rows

LABELS = torch.arange(T) % V


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("elements", [1 << 24, 4 * V])
def test_half_precision_operands_have_float32_logits(dtype, elements):
    """What is rounded is the hidden states and the weight, before the call; the gradients are rounded once, to their own type."""
    hidden = normal(T, H, seed=0, dtype=dtype).requires_grad_()
    head = Head(normal(V, H, seed=1, dtype=dtype).requires_grad_(), normal(V, seed=4, dtype=dtype), scale=0.5, softcap=3.0)
    ref_hidden = normal(T, H, seed=2, dtype=dtype)
    expected = direct(direct_logits(hidden, head, 0.7), LABELS, {"d": (direct_logits(ref_hidden, head, 0.7).detach(), chi2)})
    stats = linear_stats(hidden, head, LABELS, temperature=0.7, elements=elements, compared={"d": Compared(Pearson(), ref_hidden, head)})
    for found, wanted in ((stats.logp, expected.logp), (stats.entropy, expected.entropy), (stats.div["d"], expected.div["d"])):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=3e-6, atol=2e-6)
    found = torch.autograd.grad(stats.logp.sum() + stats.div["d"].sum(), [hidden, head.weight])
    wanted = torch.autograd.grad(expected.logp.sum() + expected.div["d"].sum(), [hidden, head.weight])
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        assert (one.double() - other.double()).abs().max() <= 8e-3 * other.abs().max()


def test_without_a_divergence_logits_may_have_the_operands_type():
    """The default, and `logits_dtype` says otherwise; the statistics are float32 either way."""
    hidden, weight = normal(T, 64, seed=0, dtype=torch.bfloat16), normal(V, 64, seed=1, dtype=torch.bfloat16)
    exact = direct(direct_logits(hidden, Head(weight)), LABELS, {}).logp
    rounded = torch.log_softmax((hidden @ weight.T).double(), -1).gather(1, LABELS[:, None])[:, 0]
    errors = {}
    for dtype in (None, torch.float32, torch.bfloat16):
        logp = linear_token_stats(hidden, weight, LABELS, logits_dtype=dtype).logp
        assert logp.dtype == torch.float32
        errors[dtype] = (logp.double() - exact).abs().max().item(), (logp.double() - rounded).abs().max().item()
    assert errors[None] == errors[torch.bfloat16] and errors[None][1] < 3e-6 < 1e-2 < errors[None][0]
    assert errors[torch.float32][0] < 1e-5


KNOWN_ANSWERS = {1e-2: 3.6e-5, 3e-2: 2.4e-4}
"""Standard deviation of the drift in the logits -> the size of KL it makes, in nats."""


@pytest.mark.parametrize("drift", KNOWN_ANSWERS)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_small_divergence_keeps_its_digits(drift, offset):
    """KL within 1e-6 of itself at float32 logits, its gradient within 1e-6 of its largest element; also under a common offset.

    Written as sum p (log p - log q) it is off by up to 3 % here, with the offset by 30 %: what keeps the digits is the canonical form of f.
    """
    vocabulary = 4096
    z = 4.5 * normal(4, vocabulary, seed=0)
    u = z + drift * normal(4, vocabulary, seed=1)
    z, u = ((x + offset).float() for x in (z, u))
    # An identity as the weight: the logits are the hidden states, exactly.
    hidden, eye = z.clone().requires_grad_(), torch.eye(vocabulary)
    leaf = z.double().requires_grad_()
    expected = kl(torch.softmax(leaf, -1), torch.softmax(u.double(), -1))
    assert 0.3 < expected.max().item() / KNOWN_ANSWERS[drift] < 3
    found = linear_token_stats(hidden, eye, torch.zeros(4, dtype=torch.int64), u, divergence=ReverseKl()).div
    assert ((found.double() - expected).abs() <= 1e-6 * expected).all()
    log_p, log_q = torch.log_softmax(z, -1), torch.log_softmax(u, -1)
    usual = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert ((usual.double() - expected).abs() / expected).max() > 1e-4, "the case is easy"
    grads = torch.autograd.grad(found.sum(), hidden)[0].double(), torch.autograd.grad(expected.sum(), leaf)[0]
    assert (grads[0] - grads[1]).abs().max() <= 1e-6 * grads[1].abs().max()


@pytest.mark.parametrize(("drift", "size"), [(0.1, 4e-2), (1e-2, 4e-3), (1e-3, 4e-4)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_total_variation_keeps_its_digits(drift, size, offset):
    """Of first order in the drift, so the error of log s_p - log s_q counts as it is. Of whole rows, and of a vocabulary's parts merged.

    With float32 normalisers, rounded at the size of a logit, it is off by 2e-4 here at the smallest.
    """
    z = offset + 3 * normal(4, 8192, seed=0)
    u, z = (z + drift * normal(4, 8192, seed=1)).float(), z.float()
    expected = (torch.softmax(z.double(), -1) - torch.softmax(u.double(), -1)).abs().sum(-1) / 2
    assert ((0.75 * size < expected) & (expected < 1.2 * size)).all()
    labels, divergence = torch.zeros(4, dtype=torch.int64), TotalVariation()
    parts = [torch_rows.row_stats(z[:, part], u[:, part], labels, scale=1.0, ref_scale=1.0) for part in (slice(3000), slice(3000, None))]
    lse = merge(*parts).lse_p, merge(*parts).lse_q
    whole = token_stats(z, labels, u, divergence).div
    merged, usual = (
        torch_rows.row_sum(z, u, *normalisers, scale=1.0, ref_scale=1.0, fn=divergence)[0]
        for normalisers in (lse, [t.float() for t in lse])
    )
    errors = [((found.double() - expected).abs() / expected).max() for found in (whole, merged, usual)]
    assert max(errors[:2]) < 1e-5
    assert errors[2] > 5 * max(errors[:2]), "the case is easy"


def test_a_user_writes_f_and_the_digits_are_kept():
    """Jensen-Shannon as anyone would write it: evaluated as written it is off by 1e-3 here, through its traced form by 1e-5 at most."""

    def f(log_u):
        log_m = torch.nn.functional.softplus(log_u) - math.log(2.0)
        return (torch.exp(log_u) * (log_u - log_m) - log_m) / 2

    z = 4.5 * normal(4, 4096, seed=0)
    u = (z + 1e-2 * normal(4, 4096, seed=1)).float()
    z = z.float()
    p, q = torch.softmax(z.double(), -1), torch.softmax(u.double(), -1)
    expected = (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2
    found = token_stats(z, torch.zeros(4, dtype=torch.int64), u, f).div
    written = (q.float() * f((z - u) - (torch.logsumexp(z, -1) - torch.logsumexp(u, -1))[:, None])).sum(-1)
    assert ((found.double() - expected).abs() <= 1e-5 * expected).all()
    assert ((written.double() - expected).abs() / expected).max() > 1e-3, "the case is easy"


def test_bfloat16_logits_would_lose_a_small_divergence():
    """Why the logits are never rounded: the same head with bfloat16 logits is off by more than the divergence itself."""
    hidden, weight = normal(64, 32, seed=0, dtype=torch.bfloat16), normal(512, 32, seed=1, dtype=torch.bfloat16)
    ref_hidden = (hidden.double() + 5e-3 * normal(64, 32, seed=2)).bfloat16()
    expected = (
        direct(
            direct_logits(hidden, Head(weight)), torch.zeros(64, dtype=torch.int64), {"d": (direct_logits(ref_hidden, Head(weight)), kl)}
        )
        .div["d"]
        .mean()
    )
    errors = {}
    for dtype in (torch.float32, torch.bfloat16):
        found = linear_token_stats(
            hidden, weight, torch.zeros(64, dtype=torch.int64), ref_hidden, divergence=ReverseKl(), logits_dtype=dtype
        )
        errors[dtype] = abs(found.div.double().mean() / expected - 1).item()
    assert errors[torch.float32] < 1e-3 and errors[torch.bfloat16] > 0.1, errors


def test_the_entropy_of_a_shifted_head():
    """A common offset of the logits is no information: entropy and log-prob are what float32 logits still tell."""
    hidden, head = normal(T, H, seed=0, dtype=torch.float32), make_head()
    head = Head(head.weight.float(), torch.full((V,), 200.0))
    stats, expected = linear_stats(hidden, head, LABELS), direct(direct_logits(hidden, head), LABELS, {})
    for found, wanted in ((stats.entropy, expected.entropy), (stats.logp, expected.logp)):
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=200 * torch.finfo(torch.float32).eps)
