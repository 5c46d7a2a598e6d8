"""PPO in the learner and in the loop, on a real (tiny) model: what is stored of a batch, what learns, what a resumed run goes on from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupted import stopped_at
from models import tiny_model
from torch import Tensor

from align.config import recipes
from align.config.nodes import build_part
from align.errors import RecipeError, UserError
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.run.state import RunState
from align.train import train
from align.types import Episode, Group, Prompt, Rewards, TokenBatch

PLUGIN = Path(__file__).parents[1] / "plugins" / "systematic.py"
KL = {"kl": {"coefficient": 0.3, "placement": "reward", "credit": "summed", "divergence": "jensen_shannon"}}
CRITICS = {
    "shared": {"name": "shared"},
    "detached": {"name": "shared", "detach": True},
    "separate": {"name": "separate"},
    "lora": {"name": "shared"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def node(folder: Path, *, lora: int = 0, micro_tokens: int = 10_000, algorithm: dict | None = None, **changes) -> dict:
    return {
        "steps": 4,
        "task": f"{PLUGIN}:OnePrompt",
        "reward": f"{PLUGIN}:ByToken",
        "engine": f"{PLUGIN}:Systematic",
        "algorithm": {"name": "ppo"} | (algorithm or {}),
        "model": {"path": str(folder), "lora": {"rank": lora}},
        "batch": {"prompts": 4, "samples": 3, "micro_tokens": micro_tokens},
        "sampling": {"max_tokens": 6},
        "optimizer": {"lr": 1e-2},
        "workers": {"backend": "local"},
        "evaluation": {"every": -1},
        "regularizers": KL,
    } | changes


def make(folder: Path, **changes) -> Learner:
    """Away from its reference, and its critic away from 0."""
    made = Learner(recipes.build(node(folder, **changes)), str(folder))
    for _, p in made.trained():
        p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    made.version = 1  # the first batch must find it at the reference, and stops the run
    return made


def critic(kind: str, **keys) -> dict:
    return {"algorithm": {"critic": CRITICS[kind]} | keys, "lora": 2 if kind == "lora" else 0}


def groups() -> list[Group]:
    rng = np.random.default_rng(0)
    return [
        Group(
            prompt=Prompt(id=str(g), text="", token_ids=tuple(rng.integers(3, 26, rng.integers(2, 7)).tolist())),
            episodes=tuple(Episode.single_turn(rng.integers(2, 26, rng.integers(1, 7)).astype(np.int32), "") for _ in range(3)),
        )
        for g in range(4)
    ]


def scored(made: Learner) -> TokenBatch:
    rewards = Rewards(values=np.random.default_rng(0).random(12).astype(np.float32))
    betas = RunState(made.recipe).betas(0)
    return made.score(replace(pack(groups(), rewards), betas=betas))


def shaped(made: Learner) -> TokenBatch:
    return prepare_batch(made.recipe, scored(made))


def gradients(made: Learner) -> tuple[dict[str, Tensor], dict]:
    """Of the first update, by name, and the statistics; nothing is moved."""
    found: list[dict[str, Tensor]] = []
    made.optimizer.step = lambda: found.append({n: p.grad.clone() for n, p in made.trained() if p.grad is not None})
    return found, made.update(shaped(made), 0)


def parameters(made: Learner) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in made.trained()}


# What is stored


@pytest.mark.parametrize("kind", CRITICS)
def test_values_are_those_of_the_weights_that_begin_the_batch(kind: str, folder: Path):
    made = make(folder, **critic(kind))
    batch = shaped(made)
    with torch.no_grad():
        now = made.critic.values(batch, made.policy.hidden(batch))
    assert batch.values.std() > 0.01 and not batch.values.requires_grad
    torch.testing.assert_close(batch.values, now, rtol=1e-4, atol=1e-5)
    before = batch.values.clone()
    made.update(batch, 0)
    with torch.no_grad():
        after = made.critic.values(batch, made.policy.hidden(batch))
    assert torch.equal(batch.values, before) and (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", CRITICS)
def test_values_do_not_depend_on_micro_batches(kind: str, folder: Path):
    whole, cut = (shaped(make(folder, micro_tokens=n, **critic(kind))) for n in (10_000, 1))
    for a, b in (
        (whole.values, cut.values),
        (whole.returns, cut.returns),
        (whole.advantages, cut.advantages),
        (whole.reward_penalties["kl"].reward, cut.reward_penalties["kl"].reward),
        (whole.reward_penalties["kl"].own, cut.reward_penalties["kl"].own),
    ):
        assert a.std() > 1e-3
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_a_part_of_a_batch_keeps_what_is_its_own(folder: Path):
    batch = shaped(make(folder))
    chosen = torch.tensor([1, 4, 5, 11])
    part, kept = batch.select(chosen), torch.isin(batch.seq_ids, chosen)
    for a, b in (
        (part.values, batch.values),
        (part.returns, batch.returns),
        (part.advantages, batch.advantages),
        (part.reward_penalties["kl"].reward, batch.reward_penalties["kl"].reward),
        (part.reward_penalties["kl"].own, batch.reward_penalties["kl"].own),
    ):
        assert torch.equal(a, b[kept])


def test_returns_are_of_the_penalised_rewards(folder: Path):
    """At lam = 1: the reward minus what this token and those after it pay, whatever the critic says."""
    batch = shaped(make(folder, algorithm={"advantage": {"lam": 1.0, "whiten": False}}))
    charge = batch.reward_penalties["kl"]
    assert charge.reward.min() >= 0 and charge.reward.max() > 1e-4
    for s in range(12):
        mine = batch.seq_ids == s
        returns = batch.rewards[s] - charge.reward[mine].flip(0).cumsum(0).flip(0)
        torch.testing.assert_close(batch.returns[mine], returns, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(batch.advantages[mine], returns - batch.values[mine] - charge.own[mine], rtol=1e-5, atol=1e-6)


def test_explained_variance_is_of_the_critic_that_began_the_batch(folder: Path):
    batch = shaped(make(folder))
    expected = 1 - (batch.returns - batch.values).var(correction=0) / batch.returns.var(correction=0)
    assert batch.shaped["critic/explained_variance"] == pytest.approx(expected.item(), rel=1e-5)


# What learns


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


# Shapings


def test_a_shaped_reward_is_what_the_critic_learns(folder: Path):
    """Answers beyond one token lose up to 1."""
    made = make(folder, shapings={"long": {"name": "overlong", "limit": 6, "buffer": 5}}, algorithm={"advantage": {"lam": 1.0}})
    plain, batch = shaped(make(folder, algorithm={"advantage": {"lam": 1.0}})), shaped(made)
    assert torch.equal(batch.rewards, plain.rewards)
    fine = -((batch.lengths - 1) / 5)[batch.seq_ids]
    assert fine.min() == -1
    torch.testing.assert_close(batch.returns - plain.returns, fine, rtol=1e-4, atol=1e-5)


def test_a_shaped_advantage_is_the_policys_alone(folder: Path):
    made = make(folder, shapings={"sure": "entropy_bonus"})
    plain, batch = shaped(make(folder)), shaped(made)
    assert torch.equal(batch.returns, plain.returns)
    expected = plain.advantages + torch.minimum(0.4 * batch.entropy, plain.advantages.abs() / 2)
    torch.testing.assert_close(batch.advantages, expected, rtol=1e-5, atol=1e-6)
    assert batch.shaped["shaping/sure/advantages"] > 0 and "critic/explained_variance" in batch.shaped


# Runs


def start(folder: Path, out: Path, resume: bool = False, **changes) -> list[dict]:
    train(
        recipes.build(
            node(
                folder,
                **{
                    "task": {"name": "countdown", "size": 32},
                    "reward": "countdown_wordy",
                    "engine": "transformers",
                    "batch": {"prompts": 4, "samples": 3},
                    "checkpoint": {"every": 2},
                }
                | changes,
            )
        ),
        out,
        resume=resume,
    )
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def state(folder: Path, out: Path, **changes) -> dict[str, Tensor]:
    """Trained parameters, the critic's too, and Adam's moments after the last step."""
    made = Learner(recipes.build(node(folder, **changes)), str(folder))
    made.load(str(out / "checkpoints" / "step_000004" / "learner"))
    moments = {f"{n}/{key}": made.optimizer.state[p][key] for n, p in made.trained() for key in ("exp_avg", "exp_avg_sq")}
    return parameters(made) | moments


@pytest.mark.parametrize("kind", ["shared", "separate", "lora"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(kind: str, folder: Path, tmp_path: Path, monkeypatch):
    options = critic(kind, epochs=2, minibatches=2)
    whole = start(folder, tmp_path / "whole", **options)
    with stopped_at(3, monkeypatch):
        start(folder, tmp_path / "parts", **options)
    assert [p.name for p in (tmp_path / "parts" / "checkpoints").glob("*")] == ["step_000002"]
    parts = start(folder, tmp_path / "parts", resume=True, **options)
    timing = ("time", "tokens/s", "sync")
    for a, b in zip(whole, parts, strict=True):
        assert {k: v for k, v in a.items() if not k.startswith(timing)} == {k: v for k, v in b.items() if not k.startswith(timing)}
    one, other = state(folder, tmp_path / "whole", **options), state(folder, tmp_path / "parts", **options)
    assert any(n.startswith("critic.") for n in one)
    assert all(torch.equal(p, other[n]) for n, p in one.items())
    told = whole[-1].keys()
    assert {"critic/explained_variance", "critic/loss", "critic/clipped", "ratio/clipped", "ratio/mean", "divergence/kl", "beta/kl"} <= told
    assert len(whole) == 4 and all(line["critic/loss"] > 0 for line in whole)
    assert not [f for f in (tmp_path / "whole" / "model").rglob("*.safetensors") if b"critic." in f.read_bytes()]


def test_a_checkpoint_with_another_critic_is_refused(folder: Path, tmp_path: Path):
    make(folder, **critic("shared")).save(str(tmp_path / "checkpoint"))
    with pytest.raises(UserError, match="does not fit this recipe's model"):
        make(folder, **critic("separate")).load(str(tmp_path / "checkpoint"))


# Refusals


OWN = '''
from typing import Any

import torch
from align.config.nodes import part
from align.regularizers import Penalty

class Own:
    """One that knows no charge."""
    coefficient: Any = part("coefficient")
    placement: str = "reward"

    def penalty(self, ctx, name):
        return Penalty(value=torch.ones_like(ctx.logp), reward=torch.ones_like(ctx.logp))
'''
IN_REWARD = {"coefficient": 0.1, "placement": "reward"}


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ({"regularizers": {"kl": IN_REWARD | {"ratio_to": "sampler"}}}, "regularizers.kl", "ratio_to changes nothing: with a critic"),
        ({"regularizers": {"kl": IN_REWARD | {"ratio_cap": 2.0}}}, "regularizers.kl", "ratio_cap changes nothing: with a critic"),
        *(
            ({"regularizers": {"kl": IN_REWARD | {"weighting": weighting}}}, f"regularizers.kl.weighting{inner}", "use placement: loss, or")
            for weighting, inner in (("difficulty", ""), ("reward_guided", ""), ({"name": "normalized", "of": "kl_covariance"}, ".of"))
        ),
        *(
            (
                {"regularizers": {"kl": IN_REWARD | {"reference": reference}}},
                "regularizers.kl.reference",
                "which is this reference, so it is 0",
            )
            for reference in ("behaviour", {"name": "hard_reset", "every": 1})
        ),
        ({"regularizers": {"kl": IN_REWARD | {"estimator": "k3"}}}, "regularizers.kl", "k3 in the reward does not have the gradient"),
        ({"regularizers": {"kl": {"coefficient": 0.1, "placement": "link"}}}, "regularizers.kl.placement", "no preference loss to link to"),
        ({"algorithm": {"value_clip": 0.5, "risk": 1.0}}, "algorithm", "value_clip changes nothing with risk"),
        ({"algorithm": {"value_clip": 0.0}}, "algorithm", "must be positive"),
        ({"algorithm": {"value_coefficient": 0.0}}, "algorithm", "must be positive"),
        ({"algorithm": {"advantage": {"gamma": 1.5}}}, "algorithm.advantage", "must lie in [0, 1]"),
        ({"algorithm": {"advantage": {"lam": -0.1}}}, "algorithm.advantage", "must lie in [0, 1]"),
        ({"algorithm": {"surrogate": {"clip_low": 1.1}}}, "algorithm.surrogate", "clip_low must lie in (0, 1]"),
        ({"algorithm": {"reduction": "tokens"}}, "algorithm.reduction", "no reduction is called 'tokens'"),
        ({"algorithm": {"minibatches": 3}}, "batch.prompts", "do not divide into 3 minibatches"),
        ({"reward": None}, "reward", "ppo learns from rewards"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_key(changes: dict, where: str, says: str):
    with pytest.raises(RecipeError) as refused:
        recipes.build(node(Path("nowhere"), **changes))
    assert refused.value.where == where and says in str(refused.value)


def test_in_the_loss_all_of_that_has_a_meaning():
    for keys in (
        {"ratio_to": "sampler"},
        {"ratio_cap": 2.0},
        {"weighting": "difficulty"},
        {"weighting": "reward_guided"},
        {"reference": "behaviour"},
    ):
        recipes.build(node(Path("nowhere"), regularizers={"kl": {"coefficient": 0.1} | keys}))


def test_the_classic_penalty_is_no_biased_form():
    """k1 at pi_old, learned by the critic, and several updates: what `sampled` has no better gradient than."""
    recipes.build(node(Path("nowhere"), regularizers={"kl": IN_REWARD | {"estimator": "k1", "credit": "summed"}}))
    with pytest.raises(RecipeError, match="on-policy only"):
        recipes.build(
            node(
                Path("nowhere"),
                algorithm={"name": "grpo", "epochs": 2},
                regularizers={"kl": IN_REWARD | {"estimator": "k1", "credit": "summed"}},
            )
        )


def test_beside_itself_a_policy_pays_nothing(folder: Path):
    """Why those references are refused."""
    made = make(folder)
    made.references["kl"] = build_part("reference", "behaviour", "here").start(made.policy)
    batch = scored(made)
    assert (batch.ref_logp["kl"] - batch.old_logp).abs().max() < 1e-5


def test_a_regularizer_that_cannot_charge_is_told_so(tmp_path: Path):
    (tmp_path / "own.py").write_text(OWN)
    own = {"x": {"name": f"{tmp_path}/own.py:Own", "coefficient": 0.1}}
    with pytest.raises(RecipeError, match="x: cannot be taken from the rewards that a critic learns: Own has no `charge`; use"):
        recipes.build(node(Path("nowhere"), regularizers=own))
    (tmp_path / "fine.py").write_text(OWN.replace('"reward"', '"loss"'))
    for regularizer, algorithm in (("own.py", "grpo"), ("fine.py", "ppo")):
        recipes.build(
            node(
                Path("nowhere"),
                algorithm={"name": algorithm},
                regularizers={"x": {"name": f"{tmp_path}/{regularizer}:Own", "coefficient": 0.1}},
            )
        )
