"""What would change a number, or lose one, without a word: each is an error that names its place."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from align.coefficients import Coefficient
from align.config import recipes
from align.config.schema import RewardLimits
from align.core.credit import Packing
from align.errors import RecipeError, UserError
from align.experience.packing import pack
from align.rewards import Reward
from align.run.state import RunState
from align.surrogates.sapo import Sapo
from align.types import Episode, Group, Prompt, Rewards, Segment
from align.workers.reward_runner import run_rewards

PLUGINS = """
import torch
from align.coefficients import Coefficient
from align.divergences.jensen_shannon import JensenShannon
from align.divergences.reverse_kl import ReverseKl
from align.estimators.sampled import Sampled
from align.estimators import Estimator

class OtherF(JensenShannon):
    def f(self, x): return 3 * (x / 2).expm1() ** 2
class OtherGradWeight(ReverseKl):
    def grad_weight(self, x): return 2 * x
class Twice(Sampled):
    def value(self, d, x): return 2 * d.khat(x)
class Unweighted(Estimator):
    def value(self, d, x): return d.khat(x)
class Negative(Coefficient):
    def beta(self, step, state): return -0.1
class Forgetful(Coefficient):
    def beta(self, step, state): return 0.1
    def update(self, state, divergence, rollouts): pass
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGINS)
    return f"{tmp_path}/mine.py"


def build(kl: dict, **changes):
    return recipes.build(
        {"steps": 2, "task": "countdown", "reward": "countdown_exact", "algorithm": "grpo", "model": {"path": "nowhere"}}
        | {"regularizers": {"kl": {"coefficient": 0.1} | kl}}
        | changes
    )


@pytest.mark.parametrize(("name", "form"), [("OtherF", "f_prime"), ("OtherGradWeight", "grad_weight")])
def test_a_closed_form_that_is_not_that_of_f(mine, name, form):
    with pytest.raises(RecipeError, match=rf"regularizers\.kl\.divergence: .*mine\.py:\d+: `{form}` is .*, and f gives"):
        build({"divergence": f"{mine}:{name}"})


@pytest.mark.parametrize("placement", ["loss", "reward"])
@pytest.mark.parametrize("credit", ["summed", "sequence"])
def test_a_biased_value_that_earlier_tokens_answer_for(mine, placement, credit):
    with pytest.raises(RecipeError, match="has a biased value"):
        build({"estimator": f"{mine}:Twice", "placement": placement, "credit": credit})
    with pytest.raises(RecipeError, match=r"its value is not that of the divergence \(bias \+100.0%\)"):
        build({"estimator": f"{mine}:Twice", "placement": placement, "credit": "local"})


def test_an_unweighted_estimator_credited_beyond_its_token_off_policy(mine):
    kl = {"estimator": f"{mine}:Unweighted", "placement": "reward", "credit": "summed"}
    build(kl)
    with pytest.raises(RecipeError, match="is not weighed by pi/pi_old"):
        build(kl, algorithm={"name": "grpo", "epochs": 2})


def test_sapo_keeps_its_slope_far_out():
    log_rho = torch.tensor([math.log(20.0)], requires_grad=True)
    at, surrogate = Packing(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)), Sapo(temperature_negative=1.0)
    loss, _ = surrogate.loss(log_rho, torch.exp(-surrogate.effective_log_ratio(log_rho.detach(), at)), at)
    (slope,) = torch.autograd.grad(loss.sum(), log_rho)
    assert slope.item() == pytest.approx(-1.0, rel=1e-4)


def test_a_beta_that_is_no_coefficient(mine):
    state = RunState(build({"coefficient": f"{mine}:Negative"}, evaluation={"every": -1}))
    with pytest.raises(RecipeError, match=r"regularizers\.kl\.coefficient: .*mine\.py:\d+: beta of .* is -0\.1 at step 3"):
        state.betas(3)


@dataclass(frozen=True)
class Measured:
    mean: float = 1.0
    by_prompt: tuple = ()


class Batch:
    lengths = (1, 2)

    def only(self, *args):
        return self


def test_an_update_that_returns_nothing(mine):
    state = RunState(build({"coefficient": f"{mine}:Forgetful"}))
    with pytest.raises(RecipeError, match=r"an update of .* returned None: return the state that follows"):
        state.control(Batch(), {"divergence/kl": Measured()})


def test_a_checkpoint_of_another_coefficient_with_the_same_state():
    rules = ({"name": "adaptive", "target": 0.1}, {"name": "ppo_penalty", "target": 0.1})
    before, after = (RunState(build({"coefficient": rule})) for rule in rules)
    assert isinstance(before._regularizers["kl"].coefficient, Coefficient)
    with pytest.raises(UserError, match=r"regularizers\.kl\.coefficient: the checkpoint is of another one, adaptive"):
        after.load_state_dict(before.state_dict())


def test_adaptive_with_too_short_a_horizon():
    with pytest.raises(RecipeError, match=r"regularizers\.kl\.coefficient: horizon 8 is too short for 64 rollouts"):
        build({"coefficient": {"name": "adaptive", "target": 0.1, "horizon": 8}}, batch={"prompts": 8, "samples": 8})


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"optimizer": {"lr": math.nan}}, "optimizer.lr"),
        ({"max_engine_gap": math.nan}, "max_engine_gap"),
        ({"regularizers": {"kl": {"coefficient": {"name": "constant", "value": math.nan}}}}, "regularizers.kl.coefficient.value"),
        ({"optimizer": {"weight_decay": -1.0}}, "optimizer.weight_decay"),
        ({"optimizer": {"warmup_steps": -5}}, "optimizer.warmup_steps"),
        ({"optimizer": {"schedule": "linear", "final_fraction": 5.0}}, "optimizer.final_fraction"),
    ],
)
def test_numbers_that_are_none(changes, where):
    with pytest.raises(RecipeError) as refused:
        build({}, **changes)
    assert refused.value.where == where


class Named(Reward):
    def score(self, prompt, response):
        return {"total": 1.0, "std": 7.0}


PROMPT = Prompt(id="p", text="1", token_ids=(3,))


def test_a_part_of_the_reward_called_as_the_runs_own():
    answer = Episode.single_turn(token_ids=np.array([1], np.int32), text="a")
    found = run_rewards(Named(), RewardLimits(), [Group(prompt=PROMPT, episodes=(answer,))])
    assert found.failed == 1 and "a part called std" in found.first_failure and "std" not in found.parts


def test_fewer_rewards_than_episodes():
    answer = Episode.single_turn(token_ids=np.array([1], np.int32), text="a")
    with pytest.raises(ValueError, match="1 rewards for 2 episodes"):
        pack([Group(prompt=PROMPT, episodes=(answer, answer))], Rewards(values=np.ones(1, np.float32)))


def test_a_version_span_of_no_tokens():
    with pytest.raises(ValueError, match="at least one token"):
        Segment(
            role="assistant", token_ids=np.array([1, 2], np.int32), trained=True, logp=np.zeros(2, np.float32), versions=((0, 3), (1, -1))
        )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("    q: list = []\n    def beta(self, step, state): return 0.1", r"mine\.py:\d+: the fields of Mine are its keys, and .*mutable"),
        ("    q: Flaot = 0.5\n    def beta(self, step, state): return 0.1", r"mine\.py:\d+: an annotation of Mine cannot be read"),
        ("    refuse = 'no'\n    def beta(self, step, state): return 0.1", r"mine\.py:\d+: `refuse` of .*Mine is no method"),
    ],
)
def test_a_slip_in_a_class_is_one_line_with_its_place(tmp_path, body, says):
    (tmp_path / "mine.py").write_text(f"from __future__ import annotations\n\nclass Mine:\n{body}\n")
    with pytest.raises(RecipeError, match=says):
        build({"coefficient": f"{tmp_path}/mine.py:Mine"})


def test_a_plugin_that_exits_at_its_import(tmp_path):
    (tmp_path / "mine.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(RecipeError, match=r"regularizers\.kl\.coefficient: .*(?s:.*)SystemExit: 3"):
        build({"coefficient": f"{tmp_path}/mine.py:Mine"})
