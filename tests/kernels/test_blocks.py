"""How a call is cut: within its share, every logit once, and with edges that a GPU reads 16 bytes at a time."""

import pytest
import torch
from helpers.sizes import Sizes
from hypothesis import example, given
from hypothesis import strategies as st
from kernels.heads import normal

from align.divergences.reverse_kl import ReverseKl
from align_kernels import Compared, Head, linear_stats
from align_kernels.linear import EDGE, _block, _chunk

SIZES = {"tokens": st.integers(0, 70_000), "vocabulary": st.integers(1, 300_000), "share": st.integers(0, 1 << 31)}


@given(**SIZES, whole_rows=st.booleans())
@example(tokens=65536, vocabulary=151936, share=1 << 27, whole_rows=False)
@example(tokens=9000, vocabulary=151936, share=1 << 27, whole_rows=False)
@example(tokens=65536, vocabulary=151936, share=(1 << 24) // 3, whole_rows=False)
@example(tokens=65536, vocabulary=151953, share=1 << 27, whole_rows=True)
def test_a_block_is_within_its_share_and_its_edges_are_multiples(tokens, vocabulary, share, whole_rows):
    rows, columns = _block(tokens, vocabulary, share, whole_rows=whole_rows)
    assert columns >= 1 and (rows >= 1 or tokens == 0)
    assert rows * columns <= max(1, share) or (rows == 1 and columns == vocabulary and whole_rows)
    assert columns == vocabulary if whole_rows else columns <= vocabulary
    for edge, whole in ((rows, tokens), (columns, vocabulary)):
        assert edge == whole or edge % EDGE == 0 or edge < EDGE
    if share >= 2 * EDGE * EDGE and not whole_rows:
        # Small only where the matrix is.
        assert rows >= min(tokens, EDGE) and columns >= min(vocabulary, EDGE)
        # What rounding leaves of the share: at least a half, where the matrix has so many.
        assert 2 * max(rows, 1) * columns >= min(share, tokens * vocabulary)


@given(**SIZES)
@example(tokens=13, vocabulary=37, share=13 * 37)
def test_a_chunk_is_within_its_share(tokens, vocabulary, share):
    rows = _chunk(tokens, vocabulary, share)
    assert rows == 1 or rows * vocabulary <= share
    if tokens * vocabulary <= share:
        # One chunk, whose logits are kept.
        assert rows == max(1, tokens)
    else:
        assert rows < 8 or rows % 8 == 0
        assert (rows + 8) * vocabulary > share


@pytest.mark.parametrize(("elements", "tokens"), [(2 * 150 * 150, 400), (2 * 40_000, 130), (2 * 300, 400)])
def test_blocks_cover_everything_once(elements, tokens):
    """Rests and all: the gradients are those of the whole."""
    vocabulary, width = 700, 5
    grads = []
    for budget in (1 << 24, elements):
        hidden, weight = normal(tokens, width, seed=0).requires_grad_(), normal(vocabulary, width, seed=1).requires_grad_()
        compared = {"kl": Compared(ReverseKl(), normal(tokens, width, seed=2), Head(normal(vocabulary, width, seed=3)))}
        with Sizes() as sizes:
            stats = linear_stats(hidden, Head(weight), torch.arange(tokens), compared=compared, elements=budget)
            (stats.logp + stats.entropy + stats.div["kl"]).sum().backward()
        assert sizes.largest <= max(budget // 2, vocabulary * width)
        grads.append((hidden.grad, weight.grad))
    torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-12)
