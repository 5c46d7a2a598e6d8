"""The reverse KL written by hand for the benchmark is a reverse KL: value and gradient against float64."""

import pytest
import torch
from kernels.heads import T, V, direct_logits, make_head, normal
from kernels.interpreted.passes import error, row_errors
from kernels.room import logits

from align_kernels import Head, linear_token_stats
from kernel_bench import hand_written, jobs, providers
from kernel_bench.measure import run
from kernel_bench.problem import Shape, problem, truth

ROWS = hand_written.reverse_kl()


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Rows of 139 take the main loop and the masked rest, lanes see several tiles."""
    monkeypatch.setattr(hand_written, "FORWARD", {"K": 2, "B": 32, "num_warps": 4})
    monkeypatch.setattr(hand_written, "BACKWARD", {"B": 64, "num_warps": 4})


def measured(z, u, labels, w):
    """The head is the identity: hidden states are logits."""
    hidden = z.clone().requires_grad_()
    stats = linear_token_stats(hidden, torch.eye(z.shape[1]), labels, u, divergence=lambda x: x * torch.exp(x), backend=ROWS)
    return stats, torch.autograd.grad((w * stats.div).sum(), hidden)[0]


def exact(z, u, labels, w):
    p, q = torch.softmax(z.double(), -1), torch.softmax(u.double(), -1)
    d = torch.where(p > 0, (p / q).log(), 0.0)
    value, entropy = (p * d).sum(-1), -torch.special.xlogy(p, p).sum(-1)
    logp, ref_logp = (t.gather(1, labels[:, None])[:, 0].log() for t in (p, q))
    return logp, ref_logp, entropy, value, w[:, None] * p * (d - value[:, None])


@pytest.mark.parametrize("v", [5, 64, 139])
def test_statistics_and_gradient(v):
    z, u, labels = logits(3, v, torch.tensor([[0.03], [0.3], [2.0]]))
    w = torch.tensor([1.0, -2.0, 0.5])
    stats, grad = measured(z, u, labels, w)
    logp, ref_logp, entropy, value, slope = exact(z, u, labels, w)
    for found, wanted in ((stats.logp, logp), (stats.ref_logp, ref_logp), (stats.entropy, entropy)):
        torch.testing.assert_close(found.detach().double(), wanted, rtol=1e-6, atol=2e-6)
    # t/s and the two normalisers are rounded, each of them about a nat.
    torch.testing.assert_close(stats.div.detach().double(), value, rtol=2e-6, atol=5e-7)
    assert (row_errors(grad, slope) < 2e-5).all()


def test_an_offset_between_the_heads_costs_no_digits():
    z, u, labels = (t.mul(1024).round().div(1024) if t.is_floating_point() else t for t in logits(4, 203, 0.1))
    one, other = (measured(z, u + offset, labels, torch.ones(4)) for offset in (0, 64))
    torch.testing.assert_close(one[0].div, other[0].div, rtol=0, atol=5e-7)
    assert error(one[1], other[1].double()) < 2e-5


def test_impossible_outcomes():
    z, u, labels = logits(2, 139, 0.5)
    z[:, ::5] = -torch.inf
    u[:, ::10] = -torch.inf
    labels = torch.tensor([1, 137])
    w = torch.ones(2)
    stats, D, _ = ROWS.one_pass(z, u, labels, scale=1.0, ref_scale=1.0, first=0)
    grad = ROWS.row_grad(
        z, u, stats.lse_p, stats.lse_q, labels, stats.entropy, D, None, None, w, scale=1.0, ref_scale=1.0, out=torch.empty_like(z)
    )
    _, _, entropy, value, slope = exact(z, u, labels, w)
    assert error(D, value) < 2e-6 and error(stats.entropy, entropy) < 2e-6 and error(grad, slope) < 2e-6


def test_temperature_reaches_both_sides():
    head, ref_head = make_head(), make_head(seed=3)
    hidden, ref = normal(T, 5, seed=0, dtype=torch.float32).requires_grad_(), normal(T, 5, seed=2, dtype=torch.float32)
    labels = torch.arange(T) % V
    div = linear_token_stats(
        hidden,
        head.weight.float(),
        labels,
        ref,
        ref_head.weight.float(),
        lambda x: x * torch.exp(x),
        scale=1.5,
        temperature=0.7,
        backend=ROWS,
    ).div
    leaf = hidden.detach().double().requires_grad_()
    logp, other = (
        torch.log_softmax(direct_logits(h, Head(w.weight, None, s), 0.7), -1) for h, w, s in ((leaf, head, 1.5), (ref, ref_head, 1.0))
    )
    expected = (logp.exp() * (logp - other)).sum(-1)
    torch.testing.assert_close(div.detach().double(), expected.detach(), rtol=2e-6, atol=5e-7)
    assert error(*(torch.autograd.grad(d.sum(), x)[0] for d, x in ((div, hidden), (expected, leaf)))) < 5e-6


@pytest.mark.parametrize("job", ["reverse_kl", "reverse_kl frozen head"])
@pytest.mark.parametrize("provider", ["hand-written triton", "hand-written triton, logits kept"])
def test_the_provider_does_the_job(job, provider):
    at = problem(jobs.JOBS[job], Shape(5, 8, 50), torch.float32, "cpu", drift=0.3)
    loss, grads = truth(at)
    found, found_grads = run(providers.available(at.job, "cpu")[provider](), at)
    torch.testing.assert_close(found.detach().double(), loss, rtol=2e-5, atol=1e-6)
    assert len(found_grads) == len(grads) == (1 if at.job.frozen_head else 2)
    for one, other in zip(found_grads, grads, strict=True):
        assert error(one, other) < 2e-5


def test_it_is_asked_for_no_other_divergence():
    assert not [p for p in providers.available(jobs.JOBS["jensen_shannon"], "cpu") if p.startswith("hand-written")]
