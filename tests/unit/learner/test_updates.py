"""One batch, several updates: what each update divides by, and what the engine is compared with."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from unit.learner.small import batch, capture_gradient, make, moved

from align.learner.micro_batches import minibatches

KL = {"kl": {"coefficient": 0.3, "estimator": "exact"}}
UNCLIPPED = {"lr": 1e-2, "max_grad_norm": 1e9}


def gradients(learner, scored) -> list[dict[str, torch.Tensor]]:
    """Of each update, none of which is applied."""
    seen = []
    learner.optimizer.step = lambda: seen.append({n: p.grad.clone() for n, p in learner.policy.trained()})
    learner.update(scored, 0)
    return seen


def test_a_minibatch_has_the_gradient_of_a_batch_of_its_own(model: Path):
    """Each is reduced by its own lengths; their number enters nowhere."""
    keys = {"regularizers": KL, "optimizer": UNCLIPPED, "model": {"path": str(model)}}
    several = moved(make(model, algorithm={"name": "grpo", "minibatches": 2}, **keys))
    scored = batch(several)
    found = gradients(several, scored)
    parts = list(minibatches(scored, 2, seed=several.recipe.seed))
    assert len(found) == len(parts) == 2
    for gradient, part in zip(found, parts, strict=True):
        alone = capture_gradient(moved(make(model, algorithm={"name": "grpo"}, **keys)), part)
        assert max(g.abs().max() for g in alone.values()) > 1e-3
        for name, expected in alone.items():
            torch.testing.assert_close(gradient[name], expected, rtol=1e-4, atol=1e-6)


def test_the_engine_is_compared_with_the_weights_that_drew_the_batch(model: Path):
    """The engine agrees with pi_old: later updates move the policy and not the gap."""
    learner = moved(make(model, regularizers=KL, optimizer=UNCLIPPED, algorithm={"name": "grpo", "epochs": 3}))
    scored = batch(learner)
    scored = replace(scored, sampler_logp=scored.old_logp.clone())
    stats = learner.update(scored, 0)
    assert stats["engine/gap"].mean == 0 and stats["kl/engine"].mean == 0
    assert abs(stats["ratio/mean"].mean - 1) > 1e-4, "the policy has moved"
    off = moved(make(model, regularizers=KL, optimizer=UNCLIPPED, algorithm={"name": "grpo", "epochs": 3}, max_engine_gap=1.0))
    stats = off.update(replace(scored, sampler_logp=scored.old_logp - 0.25), 0)
    assert stats["engine/gap"].mean == pytest.approx(0.25, abs=1e-5)
