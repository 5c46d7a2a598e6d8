"""From groups of rollouts to the batch a learner takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from align.inside import at_tokens
from align.types import Group, Rewards, TokenBatch


def pack(groups: Sequence[Group], rewards: Rewards | None, pad_id: int = 0,
         decode: Callable[[Sequence[int]], str] | None = None) -> TokenBatch | None:
    """Responses end to end, inputs right-padded. Samples whose reward is NaN are left out; None when nothing is left.

    Groups keep their order and are numbered anew, so a group that lost all its samples leaves no gap. `decode` makes text of tokens as
    the engine does, where rewards are paid inside answers.
    """
    rows = [(i, group.prompt, rollout) for i, group in enumerate(groups) for rollout in group.rollouts]
    values, inside = None, None
    if rewards is not None:
        kept = np.flatnonzero(~np.isnan(rewards.values))
        rows = [rows[i] for i in kept]
        values = torch.from_numpy(rewards.values[kept].astype(np.float32))
        if rows and any(rewards.inside):
            inside = torch.from_numpy(np.concatenate([at_tokens(rollout, rewards.inside[i], decode)
                                                      for i, (_, _, rollout) in zip(kept, rows, strict=True)]))
    if not rows:
        return None
    prompt_lengths = torch.tensor([len(prompt.token_ids) for _, prompt, _ in rows])
    lengths = torch.tensor([len(rollout.token_ids) for _, _, rollout in rows])
    totals = prompt_lengths + lengths
    input_ids = torch.full((len(rows), int(totals.max())), pad_id)
    flat = np.concatenate([ids for _, prompt, rollout in rows for ids in (prompt.token_ids, rollout.token_ids)]).astype(np.int64)
    input_ids[torch.arange(input_ids.shape[1]) < totals[:, None]] = torch.from_numpy(flat)
    seq_ids = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    starts = torch.cumsum(lengths, 0) - lengths
    sampled = rows[0][2].sampler_logp is not None
    return TokenBatch(
        input_ids=input_ids,
        prompt_lengths=prompt_lengths,
        lengths=lengths,
        seq_ids=seq_ids,
        positions=torch.arange(len(seq_ids)) - starts[seq_ids],
        group_ids=torch.unique(torch.tensor([i for i, _, _ in rows]), return_inverse=True)[1],
        versions=torch.tensor([rollout.version for _, _, rollout in rows]) if sampled else None,
        prompt_ids=tuple(prompt.id for _, prompt, _ in rows),
        rewards=values,
        inside=inside,
        sampler_logp=torch.from_numpy(np.concatenate([r.sampler_logp for _, _, r in rows])) if sampled else None,
    )
