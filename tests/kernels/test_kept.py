"""Where the logits fit into the budget they are computed once, and the reference's log-probs come with its comparison."""

import pytest
import torch
from kernels.heads import normal

from align.divergences.jensen_shannon import JensenShannon
from align.divergences.reverse_kl import ReverseKl
from align_kernels import Compared, Head, gemm, linear_stats

T, V, H = 40, 48, 6
LABELS = torch.arange(T)


def setting(references: int, dtype: torch.dtype = torch.float32):
    hidden, weight = normal(T, H, seed=0, dtype=dtype).requires_grad_(), normal(V, H, seed=1, dtype=dtype).requires_grad_()
    compared = {
        f"{i}": Compared(divergence, normal(T, H, seed=2 + i, dtype=dtype), Head(normal(V, H, seed=5 + i, dtype=dtype)))
        for i, divergence in enumerate([ReverseKl(), JensenShannon()][:references])
    }
    return hidden, weight, compared


@pytest.fixture
def gemms(monkeypatch):
    """Of each call of `gemm`: what it is, and its multiplications in units of T H V."""
    calls = []
    logits, product, add_product = gemm.logits, gemm.product, gemm.add_product

    def counted_logits(hidden, weight, *args):
        calls.append(("logits", hidden.numel() * len(weight) / (T * H * V)))
        return logits(hidden, weight, *args)

    def counted_product(a, b, **keys):
        calls.append(("product", a.numel() * b.shape[1] / (T * H * V)))
        return product(a, b, **keys)

    def counted_add_product(total, a, b):
        calls.append(("add_product", a.numel() * b.shape[1] / (T * H * V)))
        return add_product(total, a, b)

    monkeypatch.setattr(gemm, "logits", counted_logits)
    monkeypatch.setattr(gemm, "add_product", counted_add_product)
    monkeypatch.setattr(gemm, "product", counted_product)
    return calls


def step(references: int, elements: int, labels: torch.Tensor = LABELS) -> None:
    hidden, weight, compared = setting(references, torch.bfloat16)
    stats = linear_stats(hidden, Head(weight), labels, compared=compared, elements=elements, logits_dtype=torch.float32)
    torch.autograd.grad(stats.logp.sum() + sum(d.sum() for d in stats.div.values()), [hidden, weight])


@pytest.mark.parametrize("share", [1.0, 2.0, 0.99, 0.25])
@pytest.mark.parametrize("references", [0, 1, 2])
def test_the_gemms_of_a_step(references, share, gemms):
    """Forward one a side, backward two; where the logits are not kept, one a side more."""
    step(references, int(share * T * V * (1 + references)))
    sides = 1 + references
    assert sum(size for _, size in gemms) == pytest.approx(sides + 2 if share >= 1 else 2 * sides + 2)
    if share >= 1:
        assert [name for name, _ in gemms] == ["logits"] * sides + ["product"] * 2


def test_ignored_tokens_take_no_part_of_the_budget(gemms):
    step(1, 2 * 10 * V, torch.where(LABELS < 10, LABELS, -100))
    assert sum(size for _, size in gemms) == pytest.approx(4 * 10 / T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("elements", [1 << 24, 3 * V], ids=["whole", "chunks"])
def test_a_comparison_has_the_references_own_log_probs(dtype, elements):
    """As a call with the reference alone gives them, so that none is needed: equal but for roundings."""
    hidden, weight, compared = setting(2, dtype)
    found = linear_stats(hidden, Head(weight), LABELS, compared=compared, elements=elements, logits_dtype=torch.float32).ref_logp
    for name, c in compared.items():
        alone = linear_stats(c.hidden, c.head, LABELS, logits_dtype=torch.float32).logp
        assert found[name].dtype == torch.float32 and alone.abs().max() > 1
        torch.testing.assert_close(found[name], alone, rtol=5e-7, atol=1e-6)
