"""Divergences given as f alone, forward and backward, against float64."""

import pytest
import torch
from kernels.by_f import BY_F
from kernels.interpreted.passes import passes, row_errors, small_tiles
from kernels.room import logits, oracle

from align_kernels.codegen import fused

T, V = 2, 139


@pytest.mark.parametrize("name", BY_F)
def test_against_float64(name, monkeypatch):
    small_tiles(monkeypatch)
    # Tokens at 3e-4 nats and at some tenths of one, each on its own scale.
    z, u, labels = logits(T, V, torch.tensor([[0.03], [1.0]]))
    weights = torch.tensor([[0.0], [0.0], [1.0]]).expand(3, T)
    stats, grad = passes(z, u, labels, fused(BY_F[name]), weights)
    at_one = BY_F[name](torch.zeros(1, dtype=torch.float64))
    exact, exact_grad = oracle(z, u, labels, lambda a, b: (b.exp() * (BY_F[name](a - b) - at_one)).sum(-1), weights)
    # With a kink at u = 1 (abs) the rounding of the normalisers counts as it is.
    assert (row_errors(stats["div"], exact["div"]) < (3e-5 if "abs" in name else 5e-6)).all()
    assert (row_errors(grad, exact_grad) < 1e-5).all()


def test_a_kink_of_the_formula_alone_leaves_no_gradient_where_policy_and_reference_agree(monkeypatch):
    small_tiles(monkeypatch)
    z, _, labels = logits(1, 70, 0.0)
    for name in BY_F:
        stats, grad = passes(z, z, labels, fused(BY_F[name]), torch.tensor([[0.0], [0.0], [1.0]]).expand(3, 1))
        assert not stats["div"].any() and not grad.any(), name
