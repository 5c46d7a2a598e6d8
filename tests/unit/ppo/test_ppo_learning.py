"""What learns under PPO, on a real (tiny) model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from unit.ppo.learner import CRITICS, KL, critic, gradients, make, parameters, shaped


@pytest.mark.parametrize("kind", CRITICS)
def test_loss_and_gradients_do_not_depend_on_micro_batches(kind: str, folder: Path):
    runs = [gradients(make(folder, micro_tokens=n, **critic(kind, epochs=2, minibatches=2))) for n in (10_000, 30, 1)]
    (expected, stats), *others = runs
    assert len(expected) == 4
    for found, told in others:
        assert told.keys() == stats.keys()
        for name, stat in stats.items():
            assert told[name].mean == pytest.approx(stat.mean, rel=1e-4, abs=1e-6), name
        for a, b in zip(found, expected, strict=True):
            assert a.keys() == b.keys()
            for name, g in b.items():
                torch.testing.assert_close(a[name], g, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", CRITICS)
def test_whose_parameters_the_value_loss_moves(kind: str, folder: Path):
    """Ten times the weight on the value loss is ten times the critic's gradient, and reaches the policy where they share states."""
    unclipped = {"lr": 1e-2, "max_grad_norm": 1e9}
    little, much = (
        gradients(make(folder, optimizer=unclipped, **critic(kind, epochs=1, value_coefficient=weight)))[0][0] for weight in (0.1, 1.0)
    )
    critics, own = ([n for n in little if n.startswith("critic.") is critics] for critics in (True, False))
    assert critics and own
    for n in critics:
        torch.testing.assert_close(much[n], 10 * little[n], rtol=1e-3, atol=1e-6)
    changed = max((much[n] - little[n]).abs().max().item() for n in own)
    assert changed > 1e-3 if kind in ("shared", "lora") else changed == 0
    if kind == "lora":
        assert all("lora_" in n for n in own)


@pytest.mark.parametrize("kind", ["detached", "separate"])
def test_the_critic_has_a_learning_rate_of_its_own(kind: str, folder: Path):
    """Adam's first step is the rate, whatever the gradient; the schedule is that of both."""
    moves = {}
    for lr in (None, 1e-4):
        made = make(
            folder,
            algorithm={"critic": CRITICS[kind] | {"lr": lr}, "epochs": 1},
            optimizer={"lr": 1e-2, "warmup_steps": 2, "max_grad_norm": 1e9},
        )
        before = parameters(made)
        made.update(shaped(made), 0)
        moves[lr] = {n: (p - before[n]).abs().max().item() for n, p in made.trained()}
    for n, moved in moves[None].items():
        mine = n.startswith("critic.") and "k_proj.bias" not in n  # softmax does not see it: its gradient is rounding
        if mine:
            assert moved == pytest.approx(5e-3, rel=1e-2) and moves[1e-4][n] == pytest.approx(5e-5, rel=1e-2), n
        elif not n.startswith("critic."):
            assert moves[1e-4][n] == moved, "the policy does not learn at the critic's rate"


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_the_critic_learns_what_a_batch_returned(kind: str, folder: Path):
    made = make(
        folder,
        algorithm={"critic": CRITICS[kind] | {"lr": 1e-2}, "epochs": 1, "advantage": {"lam": 1.0}, "value_clip": None},
        optimizer={"lr": 1e-3},
    )
    first = shaped(made)
    for step in range(40):
        made.update(first, step)
    last = shaped(made)
    explained = [1 - ((first.returns - b.values).var() / first.returns.var()).item() for b in (first, last)]
    assert explained[0] < 0.1 and explained[1] > 0.5, explained


@pytest.mark.parametrize(
    "keys",
    [
        {"value_clip": 0.05},
        {"risk": 2.0},
        {"value_coefficient": 0.5},
        {"advantage": {"gamma": 0.5}},
        {"advantage": {"lam": 0.1}},
        {"advantage": {"whiten": False}},
        {"surrogate": {"clip_low": 0.01}},
        {"surrogate": {"clip_high": 0.01}},
        {"epochs": 3},
        {"minibatches": 2},
    ],
    ids=str,
)
def test_every_key_changes_the_update(keys: dict, folder: Path):
    def after(algorithm: dict) -> dict[str, Tensor]:
        made = make(folder, algorithm=algorithm)
        made.update(shaped(made), 0)
        return parameters(made)

    plain, changed = after({"value_clip": None}), after({"value_clip": None} | keys)
    assert any(not torch.equal(plain[n], changed[n]) for n in plain)


def test_a_penalty_pulls_alike_in_the_loss_and_in_the_reward(folder: Path):
    """At pi_old, credited to its own token and not whitened."""
    local = {"coefficient": 0.3, "divergence": "forward_kl"}
    plain = {"advantage": {"whiten": False}, "epochs": 1}
    found = [
        gradients(make(folder, algorithm=plain, regularizers=regularizers))[0][0]
        for regularizers in ({"kl": local | {"placement": "loss"}}, {"kl": local | {"placement": "reward"}}, {})
    ]
    for name, g in found[0].items():
        torch.testing.assert_close(found[1][name], g, rtol=1e-4, atol=1e-6)
    assert max((found[0][n] - g).abs().max() for n, g in found[2].items()) > 1e-3


def test_a_coefficient_of_zero_measures_and_trains_nothing(folder: Path):
    plain, silent = (make(folder, regularizers=r) for r in ({}, {"kl": KL["kl"] | {"coefficient": 0.0}}))
    stats, measured = plain.update(shaped(plain), 0), silent.update(shaped(silent), 0)
    assert all(measured[name] == stat for name, stat in stats.items()) and measured["divergence/kl"].mean > 0
    assert all(torch.equal(p, q) for p, q in zip(parameters(plain).values(), parameters(silent).values(), strict=True))
