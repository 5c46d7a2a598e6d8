"""Parts of an objective, as a recipe would build them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from align.algorithms import Algorithm
from align.config.nodes import build_part
from align.core.credit import Packing
from align.preferences import Pairs, Preference
from align.types import TokenBatch


def algorithm(name: str, **keys: Any) -> Algorithm:
    return build_part("algorithm", {"name": name, **keys}, "algorithm")


def part(kind: str, name: str, **keys: Any) -> Any:
    return build_part(kind, {"name": name, **keys}, kind)


def single_turn(prompt_lengths: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """Where the tokens of a batch stand that has one answer after each prompt: fields of a TokenBatch. Args: int64 [S] each."""
    seq_ids = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    positions = torch.arange(len(seq_ids)) - (torch.cumsum(lengths, 0) - lengths)[seq_ids]
    return {
        "totals": prompt_lengths + lengths,
        "lengths": lengths,
        "seq_ids": seq_ids,
        "positions": positions,
        "columns": prompt_lengths[seq_ids] + positions,
    }


def answers(rewards: Tensor, group_ids: Tensor) -> TokenBatch:
    """A batch of answers of one token each."""
    ones = torch.ones(len(rewards), dtype=torch.int64)
    return TokenBatch(
        input_ids=torch.zeros(len(rewards), 2, dtype=torch.int64), **single_turn(ones, ones), group_ids=group_ids, rewards=rewards
    )


def advantages(name: str, rewards: Tensor, group_ids: Tensor, **keys: Any) -> Tensor:
    """One number an answer, [S]."""
    return part("advantage", name, **keys).advantages(answers(rewards, group_ids))


def surrogate(name: str, log_rho: Tensor, advantages: Tensor, at: Packing, **keys: Any) -> tuple[Tensor, Tensor]:
    return part("surrogate", name, **keys).loss(log_rho, advantages, at)


def weights(reduction: str, lengths: Tensor, max_tokens: int) -> Tensor:
    """Of a token, by sequence, [S]."""
    return part("reduction", reduction).weights(lengths, max_tokens)


def preference_loss(preference: Preference, better: Tensor, worse: Tensor, beta: Tensor | float) -> Tensor:
    """Of a pair of scores, or of [P]."""
    one, other, of = (torch.atleast_1d(torch.as_tensor(x, dtype=better.dtype)) for x in (better, worse, beta))
    length = torch.ones(len(one), dtype=torch.int64)
    found = preference.losses(Pairs(better=one, worse=other, beta=of, better_length=length, worse_length=length))
    return found if better.ndim else found[0]
