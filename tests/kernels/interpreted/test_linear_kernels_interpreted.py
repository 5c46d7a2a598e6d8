"""The chunked operations on the Triton kernels: what the torch backend gives, through every argument that reaches a kernel."""

import pytest
import torch
from kernels.heads import H, V, make_head, normal
from kernels.interpreted.passes import small_tiles

from align.divergences.renyi import Renyi
from align.divergences.reverse_kl import ReverseKl
from align.estimators.top_k import TopK
from align_kernels import Compared, Head, linear_stats
from align_kernels.triton_rows import selfcheck

T = 7
LABELS = torch.where(torch.arange(T) % 5 == 0, -100, torch.arange(T) * 3 % V)


def measured(backend: str, elements: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Two divergences of which one has a transform, merged outcomes, a sampled comparison; soft cap, scale, bias, temperature."""
    whole = make_head("all")
    leaves = [t.to(dtype).requires_grad_() for t in (normal(T, H, seed=0), whole.weight, whole.bias)]
    head = Head(leaves[1], leaves[2], whole.scale, whole.softcap)
    reference = normal(T, H, seed=2, dtype=dtype), Head(make_head(seed=3).weight.to(dtype), None, 0.5, 4.0)
    compared = {
        "kl": Compared(ReverseKl(), *reference),
        "renyi": Compared(Renyi(q=2.0), *reference),
        "top": Compared(ReverseKl(), *reference, TopK(k=4).outcomes),
        "sampled": Compared(None, *reference),
    }
    stats = linear_stats(leaves[0], head, LABELS, temperature=0.7, compared=compared, backend=backend, elements=elements)
    outputs = [stats.logp, stats.entropy, *stats.div.values()]
    grads = torch.autograd.grad(sum((normal(T, seed=i, dtype=torch.float32) * t).sum() for i, t in enumerate(outputs)), leaves)
    return [*outputs, *stats.ref_logp.values(), *grads]


@pytest.mark.parametrize(("dtype", "error", "elements"), [(torch.float32, 2e-6, 5 * 5 * 20), (torch.bfloat16, 8e-3, 1 << 24)], ids=str)
def test_the_kernels_give_what_torch_gives(dtype, error, elements, monkeypatch):
    small_tiles(monkeypatch)
    # What the check at a first use holds is test_selfcheck's.
    monkeypatch.setattr(selfcheck, "POINTS", 1)
    for found, expected in zip(measured("triton", elements, dtype), measured("torch", elements, dtype), strict=True):
        assert found.dtype == expected.dtype
        assert (found.float() - expected.float()).abs().max() <= error * expected.float().abs().max()
