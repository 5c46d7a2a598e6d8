"""The optimizer's keys and the learning rate's schedule."""

from pathlib import Path

import pytest
import torch
from unit.learner.small import batch, make, parameters

from align.config.schema import Optimizer
from align.learner.optimizer import schedule


def test_every_optimizer_key_changes_the_update(model: Path):
    def after(**options) -> torch.Tensor:
        learner = make(model, optimizer={"lr": 1e-2} | options)
        for step in range(3):
            learner.update(batch(learner, step), step)
        return torch.cat([p.flatten() for p in parameters(learner).values()])

    plain = after()
    for options in (
        {"lr": 2e-2},
        {"betas": [0.8, 0.99]},
        {"betas": [0.9, 0.9]},
        {"weight_decay": 0.1},
        {"warmup_steps": 2},
        {"schedule": "linear"},
        {"schedule": "cosine"},
        {"max_grad_norm": 1e-3},
    ):
        assert not torch.equal(after(**options), plain), options
    assert not torch.equal(after(schedule="linear"), after(schedule="linear", final_fraction=0.5))


def test_the_learning_rate_follows_its_schedule():
    linear = Optimizer(lr=1.0, warmup_steps=2, schedule="linear", final_fraction=0.1)
    assert [schedule(linear, s, 7) for s in range(7)] == pytest.approx([0.5, 1.0, 1.0, 0.775, 0.55, 0.325, 0.1])
    cosine = Optimizer(lr=2.0, schedule="cosine")
    assert [schedule(cosine, s, 3) for s in range(3)] == pytest.approx([1.0, 0.5, 0.0])
