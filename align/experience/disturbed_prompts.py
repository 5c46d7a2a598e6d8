"""The same answers after prompts of which some tokens are left out or masked."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from align.types import TokenBatch

B = TypeVar("B", bound=TokenBatch)


def without(batch: B, hit: Tensor, mask_id: int | None) -> B:
    """The batch without the input columns in `hit`, bool [S, L], which lie before the answers; with `mask_id`, with that id there."""
    if mask_id is not None:
        return replace(batch, input_ids=batch.input_ids.masked_fill(hit, mask_id))
    # What is left out moves behind the answer, where no position looks at it.
    order = torch.argsort(hit.long(), dim=1, stable=True)
    out = hit.sum(1)
    return replace(batch, input_ids=batch.input_ids.gather(1, order), columns=batch.columns - out[batch.seq_ids], totals=batch.totals - out)


def drawn(batch: TokenBatch, share: float, seed: int) -> Tensor:
    """bool [S, L]: each prompt token but the last with probability `share`. It follows from seed, step and prompt: any split of a batch
    and every answer to a prompt have the same draw."""
    starts, width = batch.first_columns.tolist(), batch.input_ids.shape[1]
    hit = torch.zeros(len(starts), width, dtype=torch.bool)
    for row, (ids, start) in enumerate(zip(batch.input_ids.cpu(), starts, strict=True)):
        content = f"{seed} {batch.step} {ids[:start].tolist()}".encode()
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(content).digest()[:7]))
        hit[row, : start - 1] = torch.rand(start - 1, generator=generator) < share
    return hit.to(batch.input_ids.device)
