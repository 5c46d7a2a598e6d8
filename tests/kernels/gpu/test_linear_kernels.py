"""From hidden states on a real device: float32 logits of half-precision operands, blocks, memory, the same bits every time."""

import pytest
import torch
from hidden import ERRORS, LABELS, T, V, assert_right, operands
from problems import CASES, DEVICE, normal, worst

from align_kernels import Compared, Head, linear_stats


@pytest.mark.parametrize("elements", [1 << 28, 1 << 20], ids=["whole", "blocks"])
@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("dtype", ERRORS)
def test_against_float64(dtype, backend, elements):
    assert_right(dtype, backend, elements)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_kept_logits_give_what_blocks_give(backend):
    leaves, ref = operands(torch.bfloat16)
    compared = {"d": Compared(CASES["jensen_shannon"].f, ref, Head(leaves[1].detach()))}
    weights, found = normal(2, T, seed=5), []
    for elements in (2 * T * V, 1 << 20):
        stats = linear_stats(leaves[0], Head(leaves[1]), LABELS, compared=compared, elements=elements, backend=backend)
        found.append(torch.autograd.grad((weights[0] * stats.logp + weights[1] * stats.div["d"]).sum(), leaves[:2]))
    for one, other in zip(*found, strict=True):
        assert worst(one, other) < 8e-3


def test_memory_is_that_of_a_chunk():
    """64 MiB of logits at a time where the whole would be 4.8 GiB: what is allocated is chunks, gradients and a little more."""
    tokens, width, vocabulary, elements = 8192, 256, 151936, 1 << 24
    hidden, weight = (normal(n, width, seed=0, dtype=torch.bfloat16).requires_grad_() for n in (tokens, vocabulary))
    ref, labels = hidden.detach().clone(), torch.arange(tokens, device=DEVICE)
    compared = {"d": Compared(CASES["reverse_kl"].f, ref, Head(weight.detach()))}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    stats = linear_stats(hidden, Head(weight), labels, compared=compared, elements=elements, backend="triton")
    (stats.logp + stats.div["d"]).sum().backward()
    torch.cuda.synchronize()
    gradients = 2 * weight.numel() + (2 + 4) * hidden.numel()
    assert torch.cuda.max_memory_allocated() - before < gradients + 3 * 4 * elements


def test_the_same_bits_every_time():
    runs = []
    for _ in range(2):
        leaves, ref = operands(torch.bfloat16)
        stats = linear_stats(
            leaves[0],
            Head(*leaves[1:]),
            LABELS,
            elements=1 << 20,
            backend="triton",
            compared={"d": Compared(CASES["le_cam"].f, ref, Head(leaves[1].detach()))},
        )
        grads = torch.autograd.grad((stats.logp + stats.div["d"]).sum(), leaves)
        runs.append([stats.logp, stats.div["d"], *grads])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_auto_is_triton_here():
    leaves, ref = operands(torch.bfloat16)
    compared = {"d": Compared(CASES["le_cam"].f, ref, Head(leaves[1].detach()))}
    results = [linear_stats(leaves[0], Head(leaves[1]), LABELS, compared=compared, backend=b) for b in ("auto", "triton")]
    assert torch.equal(results[0].div["d"], results[1].div["d"])
