"""From hidden states on a real device: float32 logits of half-precision operands, blocks, memory, the same bits every time."""

import pytest
import torch
from problems import CASES, DEVICE, normal, of_logits, worst

from align_kernels import Compared, Head, linear_objective, linear_stats, weighted

T, H, V = 300, 128, 20011
LABELS = torch.arange(T, device=DEVICE) * 61 % V
ERRORS = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 8e-3}


def operands(dtype: torch.dtype):
    hidden, weight = normal(T, H, seed=0), 3 * normal(V, H, seed=1) / H**0.5
    ref = (hidden + 0.05 * normal(T, H, seed=2)).to(dtype)
    return [hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), normal(V, seed=3).to(dtype).requires_grad_()], ref


@pytest.mark.parametrize("elements", [1 << 28, 1 << 20], ids=["whole", "blocks"])
@pytest.mark.parametrize("backend", ["triton", "torch", "compile"])
@pytest.mark.parametrize("dtype", ERRORS)
def test_against_float64(dtype, backend, elements):
    torch.backends.cuda.matmul.allow_tf32 = False
    leaves, ref = operands(dtype)
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    # Two divergences, a soft cap and a scale: everything that reaches the kernels.
    names, scale, softcap = ("reverse_kl", "le_cam"), 1.2, 20.0

    def logits(hidden, weight, bias):
        return softcap * torch.tanh((hidden @ weight.T + bias) * scale / softcap) / 0.9

    ref_logits = logits(ref.double(), *(t.detach() for t in doubles[1:]))
    expected = [of_logits(CASES[name], logits(*doubles), ref_logits, LABELS) for name in names]
    head = Head(leaves[1], leaves[2], scale, softcap)
    compared = {name: Compared(CASES[name].f, ref, Head(leaves[1].detach(), leaves[2].detach(), scale, softcap)) for name in names}
    stats = linear_stats(leaves[0], head, LABELS, temperature=0.9, compared=compared, elements=elements, backend=backend)
    found = [stats.logp, stats.entropy, *stats.div.values()]
    wanted = [*expected[0][:2], *(e[2] for e in expected)]
    for value, truth in zip(found, wanted, strict=True):
        torch.testing.assert_close(value.double(), truth, rtol=2e-5, atol=5e-6)
    weights = normal(len(found), T, seed=5)
    grads = torch.autograd.grad(sum((w * t).sum() for w, t in zip(weights, found, strict=True)), leaves)
    truths = torch.autograd.grad(sum((w * t).sum() for w, t in zip(weights, wanted, strict=True)), doubles)
    for grad, truth in zip(grads, truths, strict=True):
        assert grad.dtype == dtype and worst(grad, truth) < ERRORS[dtype]


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_one_sweep_is_the_composable_form(backend):
    leaves, ref = operands(torch.bfloat16)
    compared = {"d": Compared(CASES["jensen_shannon"].f, ref, Head(leaves[1].detach()))}
    weights = normal(2, T, seed=5)
    keys = {"compared": compared, "elements": 1 << 20, "backend": backend}
    stats = linear_stats(leaves[0], Head(leaves[1]), LABELS, **keys)
    composed = torch.autograd.grad((weights[0] * stats.logp + weights[1] * stats.div["d"]).sum(), leaves[:2])
    total, _ = linear_objective(leaves[0], Head(leaves[1]), LABELS, weighted(weights[0], None, {"d": weights[1]}), **keys)
    for one, other in zip(torch.autograd.grad(total, leaves[:2]), composed, strict=True):
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
        stats = linear_stats(leaves[0], Head(*leaves[1:]), LABELS, elements=1 << 20, backend="triton",
                             compared={"d": Compared(CASES["le_cam"].f, ref, Head(leaves[1].detach()))})
        grads = torch.autograd.grad((stats.logp + stats.div["d"]).sum(), leaves)
        runs.append([stats.logp, stats.div["d"], *grads])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_auto_is_triton_here():
    leaves, ref = operands(torch.bfloat16)
    compared = {"d": Compared(CASES["le_cam"].f, ref, Head(leaves[1].detach()))}
    results = [linear_stats(leaves[0], Head(leaves[1]), LABELS, compared=compared, backend=b) for b in ("auto", "triton")]
    assert torch.equal(results[0].div["d"], results[1].div["d"])
