"""`off_policy_mask` by TRL and `importance` by hand: what an engine that differs from the learner is weighed by."""

from __future__ import annotations

import math

import pytest
import torch
from unit.shapings.batches import ADVANTAGES, GAP, OLD, SEQUENCES, batch, close, shaped, shaping

TRL_KEEPS = {
    (-1.0, -1.0, -1.0, -1.0): {-0.5: [0, 1, 0, 0], -0.12: [1, 1, 0, 0], 0.1: [1, 1, 0, 1], 0.3: [1, 1, 1, 1]},
    (1.0, -1.0, 0.0, -1.0): {-0.5: [1, 1, 1, 0], -0.12: [1, 1, 1, 0], 0.1: [1, 1, 1, 1], 0.3: [1, 1, 1, 1]},
}
"""By the advantage of each answer, then by threshold: `GRPOTrainer.get_off_policy_mask` of TRL 1.16 on the log-probs of `batch`, padded,
with `per_token_logps` log pi_old and `sampling_per_token_logps` log mu."""


def test_off_policy_mask_of_trl():
    for advantages, by_threshold in TRL_KEEPS.items():
        for threshold, kept in by_threshold.items():
            found = shaped("off_policy_mask", advantages=torch.tensor(advantages)[SEQUENCES].tolist(), threshold=threshold)
            assert torch.equal(found, (torch.tensor(kept) * torch.tensor(advantages))[SEQUENCES])


def test_no_mismatch_weighs_nothing():
    same = batch(sampler_logp=torch.tensor(OLD))
    for keys in ({}, {"level": "sequence"}, {"beyond_cap": "mask"}, {"level": "sequence", "beyond_cap": "mask", "cap": 1.0001}):
        assert torch.equal(shaped("importance", same, **keys), torch.tensor(ADVANTAGES))


@pytest.mark.parametrize("cap", [1.3, 2.0])
def test_truncated_and_masked_importance_by_hand(cap: float):
    ratios = [math.exp(g) for g in GAP]
    answers = [math.exp(sum(g for g, s in zip(GAP, SEQUENCES.tolist(), strict=True) if s == i)) for i in SEQUENCES.tolist()]
    for level, weights in (("token", ratios), ("sequence", answers)):
        assert any(w > cap for w in weights) and any(w < 1 for w in weights)
        cut = {"truncate": [min(w, cap) for w in weights], "mask": [0.0 if w > cap else w for w in weights]}
        for beyond_cap, expected in cut.items():
            exactly = batch(old_logp=torch.tensor(GAP), sampler_logp=torch.zeros(10))  # -40 plus a gap loses its last digits
            found = shaped("importance", exactly, level=level, cap=cap, beyond_cap=beyond_cap)
            close(found, [w * a for w, a in zip(expected, ADVANTAGES, strict=True)])
    assert torch.equal(shaped("importance"), shaped("importance", cap=2.0))


def test_the_ratio_is_logged_before_it_is_cut():
    metrics = shaping("importance", beyond_cap="mask").metrics(batch(), "x")
    ratios = [math.exp(g) for g in GAP]
    assert metrics == pytest.approx({"weight": sum(ratios) / 10, "weight/largest": math.exp(1.2), "share/capped": 0.2}, rel=1e-6)
