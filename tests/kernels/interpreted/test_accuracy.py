"""Near the reference, where others' figures are noise: the known answer, and PyTorch's own check of the gradient."""

import functools

import pytest
import torch
from kernels.interpreted.passes import error, passes, small_tiles
from kernels.room import DIVERGENCES, ROOM, defined, logits, oracle

from align_kernels import triton_rows
from align_kernels.codegen import Elementwise, fused


def near_the_reference() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A token like a language model's, 1.5 nats of entropy and a logit of 24 at the top, its reference 1e-2 away in each logit."""
    random = torch.Generator().manual_seed(3)
    z = torch.randn(2, 8192, generator=random)
    z[:, :40] = 24 - 0.55 * torch.arange(40.0)
    return z, z + 0.014 * torch.randn(2, 8192, generator=random), torch.tensor([0, 5])


@pytest.mark.parametrize("name", ["reverse_kl", "forward_kl", "jensen_shannon", "skew_reverse_kl", "users"])
def test_a_divergence_of_4e_5_nats_keeps_its_digits(name):
    z, u, labels = near_the_reference()
    w = torch.tensor([[0.0], [0.0], [1.0]]).expand(3, 2)
    stats, grad = passes(z, u, labels, fused(DIVERGENCES[name]), w)
    exact, exact_grad = oracle(z, u, labels, functools.partial(defined, DIVERGENCES[name]), w)
    assert exact["div"].min() > 5e-6 and exact["div"].max() < 2e-4
    assert ((stats["div"].double() - exact["div"]).abs() < 1e-6 * exact["div"]).all()
    # With normalisers in float32 their rounding would be that of every probability, 1e-6.
    assert error(grad, exact_grad) < 3e-7
    if name == "reverse_kl":
        assert exact["div"].mean() == pytest.approx(3.6e-5, rel=0.3)
        a, b = torch.log_softmax(z, -1), torch.log_softmax(u, -1)
        plain = (a.exp() * (a - b)).sum(-1).double()
        assert ((plain - exact["div"]).abs() > 1e-3 * exact["div"]).any(), "the plain form would pass, so this test shows nothing"


def test_total_variation_keeps_its_digits():
    """Of first order: an error of the normalisers counts against the divergence itself, not against its square root."""
    size = torch.tensor([4e-2, 4e-3, 4e-4], dtype=torch.float64)
    z, u, labels = logits(3, 8192, 2.5 * size[:, None])
    exact = defined(ROOM["total_variation"], torch.log_softmax(z.double(), -1), torch.log_softmax(u.double(), -1))
    assert ((0.75 * size < exact) & (exact < 1.2 * size)).all()
    stats, _ = passes(z, u, labels, fused(ROOM["total_variation"]), torch.ones(3, 3))
    assert ((stats["div"].double() - exact).abs() < 2e-5 * exact).all()


class Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, u, labels, fn):
        stats = triton_rows.row_stats(z, u, labels, scale=0.5, ref_scale=0.5)
        mean, S = triton_rows.row_sum(z, u, stats.lse_p, stats.lse_q, scale=0.5, ref_scale=0.5, fn=fn)
        div, slope = fn.transform(mean) if fn.transform else (mean, torch.ones_like(mean))
        ctx.save_for_backward(z, u, stats.lse_p, stats.lse_q, labels, stats.entropy, S, slope)
        ctx.fn = fn
        return stats.logp, stats.entropy, div

    @staticmethod
    def backward(ctx, *pulled):
        (w_logp, w_entropy, w_div), (*rows, slope) = pulled, ctx.saved_tensors
        return triton_rows.row_grad(*rows, w_logp, w_entropy, w_div * slope, scale=0.5, ref_scale=0.5, fn=ctx.fn), None, None, None


def weighted_log_ratio(a, b):
    return torch.exp(b) * torch.tanh(a - b) ** 2


@pytest.mark.parametrize("name", ["reverse_kl", "generalised_jsd", "total_variation", "elementwise"])
def test_gradcheck(name, monkeypatch):
    small_tiles(monkeypatch)
    fn = fused(Elementwise(weighted_log_ratio) if name == "elementwise" else DIVERGENCES[name])
    z, u, labels = logits(1, 3, 0.7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: Rows.apply(z, u, labels, fn), (z.requires_grad_(),), eps=1e-6, atol=1e-7, rtol=1e-5)
