"""How a batch is cut into minibatches and micro-batches."""

import numpy as np
import torch
from helpers.rollouts import groups

from align.experience.packing import pack
from align.learner.micro_batches import micro_batches, minibatches
from align.types import Rewards


def test_minibatches_are_whole_groups_and_everything_once():
    packed = pack(groups(), Rewards(values=np.arange(12, dtype=np.float32)))
    parts = list(minibatches(packed, 2, seed=3))
    assert sorted(torch.cat([p.rewards for p in parts]).tolist()) == list(range(12))
    assert all((torch.bincount(p.group_ids)[p.group_ids.unique()] == 3).all() for p in parts)
    assert not torch.equal(parts[0].rewards, next(minibatches(packed, 2, seed=4)).rewards)


def test_micro_batches_cover_every_token_and_keep_to_the_limit():
    packed = pack(groups(), None)
    seen = []
    for chosen, micro in micro_batches(packed, 24):
        assert torch.equal(micro.tokens, packed.tokens[chosen])
        assert micro.input_ids.numel() <= 24 or len(micro.lengths) == 1
        seen += chosen.tolist()
    assert sorted(seen) == list(range(len(packed.seq_ids)))


def test_dropped_samples_leave_no_trace():
    values = np.arange(12, dtype=np.float32)
    values[[0, 1, 2, 7]] = np.nan
    packed = pack(groups(), Rewards(values=values))
    assert packed.rewards.tolist() == [3, 4, 5, 6, 8, 9, 10, 11]
    assert packed.group_ids.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert pack(groups(), Rewards(values=np.full(12, np.nan, dtype=np.float32))) is None
