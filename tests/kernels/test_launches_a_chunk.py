"""How many kernels a chunk of tokens starts on a GPU: at small chunks the host's time for each is the price of all."""

import pytest
import torch
from kernels.heads import normal
from torch.utils._python_dispatch import TorchDispatchMode

from align.divergences.jensen_shannon import JensenShannon
from align.divergences.reverse_kl import ReverseKl
from align_kernels import Compared, Head, every_token, linear_stats, triton_rows
from align_kernels.backends import Rows

ROWS = Rows("triton", triton_rows.row_stats, triton_rows.row_sum, triton_rows.row_grad, triton_rows.one_pass)
V, H, CHUNK = 64, 4, 8


def same(logp, ref_logp):
    """Every token, as a regularizer's own method says it."""
    return logp, ref_logp


class Launches(TorchDispatchMode):
    """Operations that compute or copy; no views, no memory."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        self.count += not is_view and not func.name().startswith("aten::empty")
        return func(*args, **(kwargs or {}))


def launches(chunks: int, compared: dict, monkeypatch) -> int:
    """Of a forward pass; the row kernels are counted and not run."""
    tokens, mode = chunks * CHUNK, Launches()

    def counted(*_, **__):
        mode.count += 1

    monkeypatch.setattr(triton_rows, "launch_rows", counted)
    hidden, reference = normal(tokens, H, seed=0, dtype=torch.float32), Head(normal(V, H, seed=1, dtype=torch.float32))
    given = {name: Compared(divergence, hidden, reference, outcomes) for name, (divergence, outcomes) in compared.items()}
    with mode, torch.no_grad():
        linear_stats(
            hidden, reference, torch.arange(tokens), compared=given, elements=(1 + len(given)) * V * CHUNK, backend=ROWS, ignore_index=None
        )
    return mode.count


KL, JS = ReverseKl(), JensenShannon()
CASES = {
    "no reference": ({}, 11),
    "log-probs of a reference": ({"k3": (None, every_token)}, 17),
    "reverse KL": ({"kl": (KL, every_token)}, 19),
    "reverse KL over the same outcomes": ({"kl": (KL, same)}, 19),
    "Jensen-Shannon over the same outcomes": ({"js": (JS, same)}, 19),
}
"""What is compared, and the GEMMs, row kernels and operations on [T] numbers of one chunk."""


@pytest.mark.parametrize("name", CASES)
def test_a_chunk(name, monkeypatch):
    compared, most = CASES[name]
    # The first call traces the divergence.
    _, two, three = (launches(chunks, compared, monkeypatch) for chunks in (2, 2, 3))
    assert 0 < three - two <= most
