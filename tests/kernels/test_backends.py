"""Which backend runs where, what a user is told, and that the compiled passes are the plain ones."""

import os
import subprocess
import sys

import pytest
import torch
from kernels.heads import H, T, V, make_head, normal

from align.divergences.reverse_kl import ReverseKl
from align_kernels import Compared, DivergenceError, Elementwise, Head, fused, linear_stats, linear_token_stats
from align_kernels.backends import rows, unavailable

LABELS = torch.arange(T) * 3 % V


def test_auto_is_torch_without_a_gpu():
    assert rows("auto", torch.zeros(1)).name == "torch"


@pytest.mark.parametrize(
    ("backend", "told"),
    [
        ("triton", "Triton kernels run on CUDA, and this is cpu: use auto, torch or compile"),
        ("fast", "there is no backend 'fast': auto, triton, compile, torch"),
    ],
)
def test_a_backend_that_cannot_run_is_told(backend, told):
    assert unavailable(backend, "cpu") == told
    with pytest.raises(ValueError, match=told):
        linear_token_stats(normal(T, H, seed=0), make_head().weight, LABELS, backend=backend)


def test_torch_alone_is_enough():
    """Neither align nor triton nor anything that is not torch is imported by the torch backend, its kernels' form of f included.

    Its source is the same in every process, for ranks share one cache.
    """
    code = """
import sys
for name in ("triton", "align", "numpy.testing", "transformers", "matplotlib", "rich", "omegaconf"):
    sys.modules[name] = None
import torch, align_kernels
from kernel_bench import __main__
h = torch.randn(3, 4)
print(align_kernels.linear_token_stats(h, torch.randn(5, 4), torch.tensor([0, 1, 2]), h + 1, divergence=lambda x: x * x.exp()).div.shape)
print(align_kernels.fused(lambda x: x * x.exp()).hash)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["torch.Size([3])", fused(lambda x: x * x.exp()).hash], done.stderr[-2000:]


def outputs(backend: str, elements: int) -> list[torch.Tensor]:
    head = make_head("all")
    leaves = [t.float().requires_grad_() for t in (normal(T, H, seed=0), head.weight, head.bias)]
    compared = {"d": Compared(ReverseKl(), normal(T, H, seed=2, dtype=torch.float32), Head(make_head(seed=3).weight.float()))}
    stats = linear_stats(
        leaves[0],
        Head(leaves[1], leaves[2], head.scale, head.softcap),
        LABELS,
        temperature=0.7,
        compared=compared,
        elements=elements,
        backend=backend,
    )
    return [
        stats.logp,
        stats.entropy,
        stats.div["d"],
        *torch.autograd.grad((stats.logp + 2 * stats.entropy + stats.div["d"]).sum(), leaves),
    ]


def test_the_compiled_passes_are_the_plain_ones():
    """In chunks of 5, 5 and 3 tokens: the compiler takes a size of 1 for another program, whose compilation takes as long again."""
    for found, expected in zip(outputs("compile", 10 * V), outputs("torch", 10 * V), strict=True):
        assert (found - expected).abs().max() <= 3e-6 * expected.abs().max()


def test_f_alone_is_a_divergence():
    """A function, an object with `f` alone and one with all three give the same, value and gradient."""

    class Own:
        def f(self, log_u):
            return log_u * torch.exp(log_u)

    hidden, weight, ref = normal(T, H, seed=0).requires_grad_(), make_head().weight, normal(T, H, seed=2)
    results = []
    for divergence in (ReverseKl(), Own(), Own().f):
        div = linear_token_stats(hidden, weight, LABELS, ref, divergence=divergence).div
        results.append([div, *torch.autograd.grad(div.sum(), hidden)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-9, atol=1e-9)


def test_any_sum_over_the_vocabulary():
    """What is no function of the ratio: an entropy-like term of both log-probs, its gradient traced."""
    hidden, weight, ref = normal(T, H, seed=0).requires_grad_(), make_head().weight, normal(T, H, seed=2)
    phi = Elementwise(lambda a, b: torch.exp(a) * (a - b) ** 2)
    div = linear_token_stats(hidden, weight, LABELS, ref, divergence=phi).div
    a, b = (torch.log_softmax(h @ weight.T, -1) for h in (hidden, ref))
    expected = (a.exp() * (a - b) ** 2).sum(-1)
    torch.testing.assert_close(div, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(t.sum(), hidden)[0] for t in (div, expected)), rtol=1e-9, atol=1e-10)


def test_what_is_no_divergence_is_told_before_anything_is_computed():
    with pytest.raises(DivergenceError):
        linear_token_stats(normal(T, H, seed=0), make_head().weight, LABELS, normal(T, H, seed=2), divergence=lambda log_u: log_u.sum())
