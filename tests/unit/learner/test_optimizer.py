"""The optimizer's keys and the learning rate's schedule."""

from pathlib import Path

import pytest
import torch
import transformers
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
    assert [schedule(cosine, s, 3) for s in range(3)] == pytest.approx([1.0, 2 / 3, 1 / 3])


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 2, 5])
def test_no_step_has_a_rate_of_zero(kind: str, warmup: int):
    for steps in (1, 2, 5, 100):
        rates = [schedule(Optimizer(schedule=kind, warmup_steps=warmup), step, steps) for step in range(steps)]
        assert min(rates) >= 1 / max(steps, warmup) - 1e-12 and max(rates) <= 1


def test_linear_is_that_of_transformers():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=1.0)
    theirs = transformers.get_linear_schedule_with_warmup(optimizer, num_warmup_steps=0, num_training_steps=7)
    for step in range(7):
        assert schedule(Optimizer(schedule="linear"), step, 7) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_norms_and_biases_do_not_decay(model: Path):
    learner = make(model, optimizer={"lr": 1e-2, "weight_decay": 0.1})
    decayed = {id(p) for g in learner.optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    names = {name: id(p) in decayed for name, p in learner.policy.trained()}
    assert {name for name, decays in names.items() if not decays} == {n for n in names if "norm" in n or n.endswith("bias")} != set()
    assert {g["weight_decay"] for g in learner.optimizer.param_groups} == {0.0, 0.1}
