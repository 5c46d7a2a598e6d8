"""Hidden states, a head and a reference of them; and all statistics and gradients against float64."""

import torch
from problems import CASES, DEVICE, normal, of_logits, worst

from align_kernels import Compared, Head, linear_stats

T, H, V = 300, 128, 20011
LABELS = torch.arange(T, device=DEVICE) * 61 % V
ERRORS = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 8e-3}


def operands(dtype: torch.dtype):
    hidden, weight = normal(T, H, seed=0), 3 * normal(V, H, seed=1) / H**0.5
    ref = (hidden + 0.05 * normal(T, H, seed=2)).to(dtype)
    return [hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), normal(V, seed=3).to(dtype).requires_grad_()], ref


def assert_right(dtype: torch.dtype, backend: str, elements: int) -> None:
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
