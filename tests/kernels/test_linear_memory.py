"""Memory is O(T + chunk): counted in elements of the largest tensor any operation makes, not timed."""

import pytest
import torch
from helpers.sizes import Sizes
from kernels.heads import normal

from align.divergences.reverse_kl import ReverseKl
from align.estimators.top_k import TopK
from align_kernels import Compared, Head, every_token, linear_stats

TOKENS, VOCABULARY, WIDTH, ROWS = 300, 500, 4, 8
LABELS = torch.arange(TOKENS)


def setting(dtype: torch.dtype, outcomes=every_token):
    hidden, ref_hidden = normal(TOKENS, WIDTH, seed=0, dtype=dtype).requires_grad_(), normal(TOKENS, WIDTH, seed=1, dtype=dtype)
    head = Head(normal(VOCABULARY, WIDTH, seed=2, dtype=dtype).requires_grad_())
    return hidden, head, {"d": Compared(ReverseKl(), ref_hidden, Head(normal(VOCABULARY, WIDTH, seed=3, dtype=dtype)), outcomes)}


@pytest.mark.parametrize("outcomes", [every_token, TopK(k=16).outcomes], ids=["every token", "top k"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_never_exist_at_once(dtype, outcomes):
    """In the forward and in the backward pass; what is kept between them is the operands and a dozen numbers a token."""
    hidden, head, compared = setting(dtype, outcomes)
    operands = {t.data_ptr() for t in (hidden, head.weight, compared["d"].hidden, compared["d"].head.weight)}
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(0 if t.data_ptr() in operands else t.numel()) or t, lambda t: t)
    with Sizes() as sizes, hooks:
        stats = linear_stats(hidden, head, LABELS, compared=compared, elements=2 * ROWS * VOCABULARY)
        kept_after_forward = sum(kept)
        (stats.logp.sum() + stats.div["d"].sum()).backward()
    assert sizes.largest == ROWS * VOCABULARY, "the policy's and the reference's logits share the budget"
    assert kept_after_forward <= 12 * TOKENS
    assert hidden.grad.abs().sum() > 0 and head.weight.grad.abs().sum() > 0


def test_one_row_is_the_least():
    """A budget below the vocabulary still makes progress, one token at a time."""
    hidden, head, _ = setting(torch.float32)
    with Sizes() as sizes:
        linear_stats(hidden, head, LABELS, elements=1)
    assert sizes.largest == VOCABULARY * WIDTH, "the weight itself"


def test_the_same_bits_every_time():
    """One order of every sum: nothing is accumulated by whoever comes first."""
    runs = []
    for _ in range(2):
        hidden, head, compared = setting(torch.bfloat16)
        stats = linear_stats(hidden, head, LABELS, compared=compared, elements=2 * ROWS * VOCABULARY)
        (stats.logp.sum() + stats.div["d"].sum()).backward()
        runs.append((stats.logp, stats.div["d"], hidden.grad, head.weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_weight_changed_before_the_backward_pass_is_noticed():
    """The logits are computed again from it: a gradient of another function is refused."""
    hidden, head, compared = setting(torch.float32)
    loss = linear_stats(hidden, head, LABELS, compared=compared, elements=2 * ROWS * VOCABULARY).div["d"].sum()
    with torch.no_grad():
        compared["d"].head.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
