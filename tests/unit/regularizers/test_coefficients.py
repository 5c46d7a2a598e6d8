"""Rules for beta: their numbers, every key of theirs alive, and their state."""

from __future__ import annotations

import json
import math
from dataclasses import fields

import pytest
import torch
from helpers.built import single_turn
from helpers.followed import Followed
from hypothesis import given, settings
from hypothesis import strategies as st

from align.coefficients.adaptive import Adaptive
from align.coefficients.constant import Constant
from align.coefficients.feasible import Feasible
from align.config import registry
from align.config.nodes import build_part, resolved
from align.errors import RecipeError
from align.types import TokenBatch

NODES = {
    "adaptive": {"target": 6.0},
    "beta_dpo": {},
    "constant": {"value": 0.25},
    "cosine": {"start": 0.3, "end": 0.1, "steps": 10, "warmup": 2},
    "feasible": {"tolerance": 1.2},
    "grpo_d": {"minimum": 0.04, "maximum": 0.1, "steps": 100},
    "kdrl": {},
    "lagrangian": {"target": 4.0},
    "linear": {"start": 0.3, "end": 0.1, "steps": 10, "warmup": 2},
    "piecewise": {"points": [[2, 0.1], [6, 0.3], [7, 0.0]]},
    "ppo_penalty": {"target": 6.0},
    "warmup": {"steps": 4, "to": {"name": "adaptive", "target": 6.0}},
}
"""Every rule with the keys that it must be given."""


def build(name: str, **keys) -> Followed:
    return Followed(build_part("coefficient", {"name": name, **NODES[name], **keys}, "regularizers.kl.coefficient"))


def answers(prompts: str = "ab") -> TokenBatch:
    """Two answers to each prompt, of one token, ranked; the policy prefers the better one by ever more."""
    count = 2 * len(prompts)
    ones, log_u = torch.ones(count, dtype=torch.int64), 0.5 * torch.arange(count) * (-1) ** torch.arange(count)
    return TokenBatch(
        input_ids=torch.zeros(count, 2, dtype=torch.int64),
        **single_turn(ones, ones),
        group_ids=torch.arange(count) // 2,
        prompt_ids=tuple(p for p in prompts for _ in range(2)),
        old_logp=log_u - 2,
        ref_logp={"kl": torch.full((count,), -2.0)},
    )


def multiplied(rule: Followed, prompts: str = "ab") -> list[float] | None:
    """One factor for each prompt."""
    found = rule.multipliers(answers(prompts), "kl")
    if found is None:
        return None
    assert found.dtype == torch.float32 and torch.equal(found[::2], found[1::2])
    return found[::2].tolist()


def betas(name: str, at: list[int], **keys) -> list[float]:
    rule = build(name, **keys)
    return [rule.beta(step) for step in at]


def told(name: str, divergences: list[float], **keys) -> list[float]:
    """Beta before the first step and after each."""
    rule, found = build(name, **keys), []
    for divergence in (*divergences, None):
        found.append(rule.beta(len(found)))
        if divergence is not None:
            rule.update(divergence, 256)
    return found


def after(updates: list[tuple[float, int]], **keys) -> float:
    coefficient = Followed(Adaptive(**({"target": 6.0} | keys)))
    for divergence, rollouts in updates:
        coefficient.update(divergence, rollouts)
    return coefficient.beta(len(updates))


def test_constant():
    assert [Constant(0.25).beta(step, {}) for step in (0, 1, 10**6)] == [0.25] * 3
    constant = Followed(Constant(0.25))
    constant.update(100.0, 256)
    assert constant.beta(1) == 0.25 and constant.state == {}


def test_a_number_in_a_recipe_is_a_constant():
    built = build_part("coefficient", 0.1, "regularizers.kl.coefficient")
    assert isinstance(built, Constant) and built.value == 0.1


@pytest.mark.parametrize("value", [-1e-9, -1.0])
def test_a_negative_coefficient_is_refused(value):
    with pytest.raises(ValueError, match="value must be >= 0"):
        Constant(value)
    with pytest.raises(RecipeError, match=r"regularizers\.kl\.coefficient"):
        build_part("coefficient", value, "regularizers.kl.coefficient")


def test_ziegler_arithmetic_by_hand():
    """beta 0.2, target 6, 256 rollouts, horizon 10000: the error is clipped at 0.2 both ways."""
    assert after([(12.0, 256)]) == pytest.approx(0.2 * (1 + 0.2 * 0.0256), abs=1e-15)
    assert after([(6.3, 256)]) == pytest.approx(0.2 * (1 + 0.05 * 0.0256), abs=1e-15)
    assert after([(6.0, 256)]) == 0.2
    assert after([(0.0, 256)]) == pytest.approx(0.2 * (1 - 0.2 * 0.0256), abs=1e-15)
    assert after([(6.3, 256), (5.7, 128)]) == pytest.approx(0.2 * (1 + 0.05 * 0.0256) * (1 - 0.05 * 0.0128), abs=1e-15)


def test_beta_is_fixed_until_told():
    coefficient = Followed(Adaptive(target=6.0, initial=0.3))
    assert [coefficient.beta(step) for step in (0, 1, 7)] == [0.3] * 3


@pytest.mark.parametrize(("key", "other"), [("target", 3.0), ("initial", 0.4), ("horizon", 5000.0)])
def test_every_key_of_adaptive_is_alive(key, other):
    assert {f.name for f in fields(Adaptive)} == {"target", "initial", "horizon"}
    assert after([(6.3, 256)]) != after([(6.3, 256)], **{key: other})


def test_it_settles_at_the_target():
    """On a divergence that falls as 2/beta the controller finds the beta whose divergence is the target, from both sides."""
    for initial in (0.01, 10.0):
        coefficient = Followed(Adaptive(target=4.0, initial=initial, horizon=1000.0))
        for step in range(1500):
            coefficient.update(2 / coefficient.beta(step), 100)
        assert coefficient.beta(1500) == pytest.approx(0.5, rel=1e-6)


def test_state_survives_a_restart():
    first = Followed(Adaptive(target=6.0))
    first.update(12.0, 256)
    second = Followed(Adaptive(target=6.0), json.loads(json.dumps(first.state)))
    first.update(1.0, 64)
    second.update(1.0, 64)
    assert first.beta(2) == second.beta(2) != 0.2


@pytest.mark.parametrize("key", ["target", "initial", "horizon"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_adaptive_refuses_what_has_no_meaning(key, value):
    with pytest.raises(ValueError, match=f"{key} must be positive"):
        Adaptive(**({"target": 6.0} | {key: value}))


def test_the_longest_step_of_a_horizon_leaves_beta_positive():
    coefficient = Followed(Adaptive(target=6.0, horizon=100.0))
    coefficient.update(0.0, 499)
    assert 0 < coefficient.beta(1) < 0.2 * 0.01


def test_the_table_above_holds_every_rule():
    assert tuple(NODES) == registry.shipped("coefficient")


def near(numbers, *, rel: float = 1e-14):
    return pytest.approx(numbers, rel=rel, abs=1e-17)


def test_linear_by_hand():
    """Two steps up to 0.3 (the first is not 0), ten steps down to 0.1, level from then on."""
    assert betas("linear", [0, 1, 2, 7, 12, 13, 10**6]) == near([0.15, 0.3, 0.3, 0.2, 0.1, 0.1, 0.1])
    assert betas("linear", [0, 5, 10, 11], warmup=0, start=0.0, end=1.0) == near([0.0, 0.5, 1.0, 1.0])


def test_cosine_by_hand():
    """(1 + cos(pi/3))/2 = 3/4 of the way is left after a third of the steps."""
    assert betas("cosine", [0, 1, 2, 5, 8, 11, 50], steps=9) == near([0.15, 0.3, 0.3, 0.25, 0.15, 0.1, 0.1])
    assert betas("cosine", [0, 1, 2], warmup=0, start=0.0, end=1.0, steps=2) == near([0.0, 0.5, 1.0])


def test_piecewise_by_hand():
    assert betas("piecewise", [0, 2, 3, 4, 6, 7, 100]) == near([0.1, 0.1, 0.15, 0.2, 0.3, 0.0, 0.0])
    assert betas("piecewise", [0, 9, 10, 11], points=[[0, 1.0], [9, 1.0], [10, 5.0]]) == near([1.0, 1.0, 5.0, 5.0])


def test_warmup_scales_another():
    assert betas("warmup", [0, 1, 3, 4, 99], to=0.2) == near([0.05, 0.1, 0.2, 0.2, 0.2])
    assert betas("warmup", [0, 1, 2], steps=2, to={"name": "linear", "start": 1.0, "end": 0.0, "steps": 4}) == near([0.5, 0.75, 0.5])


def test_warmup_passes_everything_on():
    rule, alone = build("warmup"), build("adaptive")
    for each in (rule, alone):
        each.update(12.0, 256)
    assert rule.beta(3) == alone.beta(3) != 0.2 and rule.state == alone.state
    other = build("warmup", to=resolved(alone.rule))
    other.state = rule.state
    assert other.beta(1) == 0.5 * alone.beta(1)
    rule, alone = build("warmup", to={"name": "feasible"}), Followed(Feasible())
    for each in (rule, alone):
        each.update_prompts({"a": 3.0})
    assert multiplied(rule) == multiplied(alone) == near([1.0 + 3.0 - 1e-3 - 0.5, 1.0], rel=1e-6)
    rule, alone = build("warmup", to={"name": "beta_dpo"}), build("beta_dpo")
    for each in (rule, alone):
        each.update_batch(answers(), "kl")
    assert rule.state == alone.state != {"usual": 0.0}


def test_grpo_d_row_34():
    """t = 100, [0.04, 0.1]: the published V, and the monotone reading of its prose."""
    assert betas("grpo_d", [0, 15, 30, 65, 100, 101]) == near([0.07, 0.055, 0.04, 0.07, 0.1, 0.1])
    assert betas("grpo_d", [0, 15, 50, 100, 101], monotone=True) == near([0.04, 0.049, 0.07, 0.1, 0.1])
    assert betas("grpo_d", [0, 25, 50, 75, 100], warm_share=0.5) == near([0.07, 0.055, 0.04, 0.07, 0.1])
    assert betas("grpo_d", [30], minimum=0.0, maximum=0.02) == [0.0]


def test_kdrl_by_hand():
    """From 5e-3 down by 5e-5 a step to 1e-3, which is step 80."""
    assert betas("kdrl", [0, 1, 40, 79, 80, 81, 5000]) == near([5e-3, 4.95e-3, 3e-3, 1.05e-3, 1e-3, 1e-3, 1e-3], rel=1e-12)
    for step in range(0, 120, 7):
        assert build("kdrl").beta(step) == near(build("linear", start=5e-3, end=1e-3, steps=80, warmup=0).beta(step), rel=1e-12)
    assert betas("kdrl", [2], start=1.0, slope=0.25, floor=0.0) == [0.5]


def test_ppo_penalty_by_hand():
    """Target 6: below 4 beta halves, above 9 it doubles, between it stays; at the borders too."""
    assert told("ppo_penalty", [3.99, 4.0, 9.0, 9.01, 100.0, -1.0]) == [1.0, 0.5, 0.5, 0.5, 1.0, 2.0, 1.0]
    assert told("ppo_penalty", [100.0] * 3, initial=1.0, maximum=3.0) == [1.0, 2.0, 3.0, 3.0]
    assert told("ppo_penalty", [0.0] * 3, initial=1.0, minimum=0.3) == [1.0, 0.5, 0.3, 0.3]
    assert told("ppo_penalty", [7.0, 5.0], tolerance=1.0, factor=3.0) == near([1.0, 3.0, 1.0])


def test_lagrangian_by_hand():
    """Target 4, rate 0.1: d = 6 raises log beta by 0.05, d = 0 lowers it by 0.1."""
    up, down = math.exp(0.05), math.exp(-0.1)
    assert told("lagrangian", [6.0, 0.0, 4.0]) == near([0.1, 0.1 * up, 0.1 * up * down, 0.1 * up * down])
    assert told("lagrangian", [1e12, 6.0, 2.0]) == near([0.1, 100.0, 100.0, 100.0 / up], rel=1e-12)
    assert told("lagrangian", [-1e12, 2.0, 6.0]) == near([0.1, 1e-6, 1e-6, 1e-6 * up], rel=1e-12)


def test_the_lagrangian_meets_its_constraint():
    """Where the divergence falls as 2/beta it finds target 4 at beta 0.5 from both sides; always below, it goes to its floor."""
    for initial in (0.01, 10.0):
        rule = build("lagrangian", initial=initial)
        for step in range(400):
            rule.update(2 / rule.beta(step), 1)
        assert rule.beta(400) == pytest.approx(0.5, rel=1e-6)
    slack = build("lagrangian", minimum=0.05)
    for _ in range(100):
        slack.update(3.0, 1)
    assert slack.beta(100) == near(0.05)


def settled(divergence: float, steps: int = 200, **keys) -> float:
    rule = build("feasible", **keys)
    for _ in range(steps):
        rule.update_prompts({"p": divergence})
    return rule.state["multipliers"]["p"]


def test_feasible_row_43():
    """D = 1.7, tolerance 1.2, resilience 2: lambda -> 1; a constraint that is met: lambda -> 0."""
    assert settled(1.7) == pytest.approx(1.0, abs=1e-12) and settled(1.7, initial=0.0) == pytest.approx(1.0, abs=1e-12)
    assert settled(1.1) == 0.0 and settled(-5.0) == 0.0


def test_feasible_by_hand():
    """One step from 1: 1 + rate * (D - 1.2 - 1/resilience), not below 0."""
    assert settled(1.9, steps=1) == near(1 + 0.7 - 0.5) and settled(1.9, steps=1, rate=0.5) == near(1 + 0.5 * 0.2)
    assert settled(1.9, steps=1, resilience=4.0) == near(1 + 0.7 - 0.25) and settled(1.9, steps=1, initial=2.0) == near(2 + 0.7 - 1)
    assert settled(1.9, steps=3, resilience=math.inf) == near(1 + 3 * 0.7) and settled(0.0, steps=1) == 0.0
    assert settled(1.9, steps=1, tolerance=0.2) == near(1 + 1.7 - 0.5)


def test_each_prompt_has_its_own_multiplier():
    rule = build("feasible")
    assert rule.beta(0) == 1.0 and multiplied(rule, "aba") == [1.0] * 3
    rule.update_prompts({"a": 2.2})
    rule.update_prompts({"c": 0.0})
    assert multiplied(rule, "abca") == near([1.5, 1.0, 0.0, 1.5], rel=1e-6)


def test_others_have_no_multipliers():
    assert {name for name in NODES if multiplied(build(name)) is not None} == {"feasible", "beta_dpo"}


REFUSED = [
    ("linear", {"start": -0.1}, "start must be >= 0"),
    ("linear", {"end": math.inf}, "end: must be finite"),
    ("linear", {"steps": 0}, "steps must be at least 1"),
    ("cosine", {"warmup": -1}, "warmup at least 0"),
    ("cosine", {"end": 0.3}, "steps changes nothing"),
    ("linear", {"start": 0.0}, "warmup changes nothing"),
    ("warmup", {"steps": 1}, "steps must be at least 2"),
    ("warmup", {"to": -1.0}, "value must be >= 0"),
    ("piecewise", {"points": [[0, 1.0]]}, "two or more pairs"),
    ("piecewise", {"points": [[0, 1.0], [1]]}, "two or more pairs"),
    ("piecewise", {"points": [[0, 1.0], [0, 2.0]]}, "must increase"),
    ("piecewise", {"points": [[0, 1.0], [5, -2.0]]}, "the value at step 5"),
    ("kdrl", {"slope": 0.0}, "slope must be positive"),
    ("kdrl", {"floor": 5e-3}, "beta could not fall"),
    ("kdrl", {"floor": -1.0}, "floor must be >= 0"),
    ("grpo_d", {"minimum": 0.1}, "must be below maximum"),
    ("grpo_d", {"minimum": -0.1}, "minimum must be >= 0"),
    ("grpo_d", {"steps": 0}, "steps must be at least 1"),
    ("grpo_d", {"warm_share": 1.0}, r"warm_share must lie in \(0, 1\)"),
    ("grpo_d", {"monotone": True, "warm_share": 0.5}, "warm_share changes nothing"),
    ("ppo_penalty", {"target": 0.0}, "target must be positive"),
    ("ppo_penalty", {"factor": 1.0}, "factor above 1"),
    ("ppo_penalty", {"tolerance": 0.9}, "tolerance must be at least 1"),
    ("ppo_penalty", {"initial": 200.0}, "between minimum and maximum"),
    ("lagrangian", {"rate": -0.1}, "rate must be positive"),
    ("lagrangian", {"initial": 1e-7}, "between minimum and maximum"),
    ("lagrangian", {"minimum": 0.0}, "minimum must be positive"),
    ("lagrangian", {"maximum": math.inf}, "maximum: must be finite"),
    ("feasible", {"tolerance": -1.0}, "tolerance must be >= 0"),
    ("feasible", {"rate": 0.0}, "rate must be positive"),
    ("feasible", {"resilience": 0.5}, "resilience must be above rate/2"),
    ("feasible", {"initial": -1.0}, "initial must be >= 0"),
]


@pytest.mark.parametrize(("name", "keys", "message"), REFUSED, ids=lambda x: x if isinstance(x, str) else "")
def test_what_has_no_meaning_is_refused(name: str, keys: dict, message: str):
    with pytest.raises(RecipeError, match=message) as caught:
        build(name, **keys)
    assert caught.value.where.startswith("regularizers.kl.coefficient")


OTHER = {
    "beta_dpo": {"value": 0.2, "sensitivity": 0.3, "momentum": 0.5, "per": "batch"},
    "constant": {"value": 0.5},
    "adaptive": {"target": 3.0, "initial": 0.4, "horizon": 5000.0},
    "linear": {"start": 0.4, "end": 0.2, "steps": 8, "warmup": 3},
    "cosine": {"start": 0.4, "end": 0.2, "steps": 8, "warmup": 3},
    "warmup": {"steps": 5, "to": 0.1},
    "piecewise": {"points": [[0, 0.5], [9, 0.1]]},
    "kdrl": {"start": 6e-3, "slope": 1e-4, "floor": 2e-3},
    "grpo_d": {"minimum": 0.05, "maximum": 0.2, "steps": 60, "warm_share": 0.5, "monotone": True},
    "ppo_penalty": {"target": 3.0, "initial": 0.9, "tolerance": 1.1, "factor": 3.0, "minimum": 0.4, "maximum": 1.5},
    "lagrangian": {"target": 3.0, "initial": 0.4, "rate": 0.2, "minimum": 0.095, "maximum": 0.11},
    "feasible": {"tolerance": 1.0, "rate": 0.5, "resilience": 3.0, "initial": 0.4},
}


def history(name: str, **keys) -> list[float]:
    """Everything the prompts of thirteen steps and some late ones would feel."""
    rule, felt = build(name, **keys), []
    for step, divergence in enumerate([0.5, 6.3, 8.0, 30.0, 12.0, 9.0, 1.0, 1.5, 5.0, 4.5, 0.5, 0.1, 7.0]):
        felt += [rule.beta(step), *(multiplied(rule) or [])]
        rule.update(divergence, 256)
        rule.update_batch(answers(), "kl")
        rule.update_prompts({"a": divergence})
    return felt + [rule.beta(step) for step in (20, 45, 90, 10**4)]


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in OTHER.items() for key in keys])
def test_every_key_is_alive(name: str, key: str):
    assert {f.name for f in fields(build(name).rule)} == OTHER[name].keys()
    assert history(name, **{key: OTHER[name][key]}) != history(name)


divergences = st.lists(st.floats(-1e9, 1e9), max_size=30)


@pytest.mark.parametrize("name", NODES)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(divergences=divergences)
def test_beta_is_never_negative_and_the_state_is_json(name: str, divergences):
    rule = build(name)
    for step, divergence in enumerate([*divergences, 1.0]):
        assert 0 <= rule.beta(step) < math.inf and all(0 <= m < math.inf for m in multiplied(rule) or [])
        rule.update(divergence, 64)
        rule.update_batch(answers(), "kl")
        rule.update_prompts({"a": divergence})
    copy = Followed(build_part("coefficient", resolved(rule.rule), "copy"), json.loads(json.dumps(rule.state)))
    for each in (rule, copy):
        each.update(7.0, 64)
        each.update_batch(answers(), "kl")
        each.update_prompts({"a": 7.0, "b": 2.0})
    assert copy.beta(9) == rule.beta(9) and multiplied(copy) == multiplied(rule)
