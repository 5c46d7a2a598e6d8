"""Rules for beta: their numbers, every key of theirs alive, and their state."""

from __future__ import annotations

from dataclasses import fields

import pytest

from align.coefficients import Coefficient
from align.coefficients.adaptive import Adaptive
from align.coefficients.constant import Constant
from align.config import build_part
from align.errors import RecipeError


def after(updates: list[tuple[float, int]], **keys) -> float:
    coefficient = Adaptive(**({"target": 6.0} | keys))
    for divergence, rollouts in updates:
        coefficient.update(divergence, rollouts)
    return coefficient.beta(len(updates))


def test_constant():
    assert [Constant(0.25).beta(step) for step in (0, 1, 10**6)] == [0.25] * 3
    constant = Constant(0.25)
    constant.update(100.0, 256)
    assert constant.beta(1) == 0.25 and constant.state_dict() == {}


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
    coefficient = Adaptive(target=6.0, initial=0.3)
    assert [coefficient.beta(step) for step in (0, 1, 7)] == [0.3] * 3


@pytest.mark.parametrize(("key", "other"), [("target", 3.0), ("initial", 0.4), ("horizon", 5000.0)])
def test_every_key_of_adaptive_is_alive(key, other):
    assert {f.name for f in fields(Adaptive)} == {"target", "initial", "horizon"}
    assert after([(6.3, 256)]) != after([(6.3, 256)], **{key: other})


def test_it_settles_at_the_target():
    """On a divergence that falls as 2/beta the controller finds the beta whose divergence is the target, from both sides."""
    for initial in (0.01, 10.0):
        coefficient = Adaptive(target=4.0, initial=initial, horizon=1000.0)
        for step in range(1500):
            coefficient.update(2 / coefficient.beta(step), 100)
        assert coefficient.beta(1500) == pytest.approx(0.5, rel=1e-6)


def test_state_survives_a_restart():
    first = Adaptive(target=6.0)
    first.update(12.0, 256)
    second = Adaptive(target=6.0)
    second.load_state_dict(first.state_dict())
    first.update(1.0, 64)
    second.update(1.0, 64)
    assert first.beta(2) == second.beta(2) != 0.2


@pytest.mark.parametrize("key", ["target", "initial", "horizon"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_adaptive_refuses_what_has_no_meaning(key, value):
    with pytest.raises(ValueError, match=f"{key} must be positive"):
        Adaptive(**({"target": 6.0} | {key: value}))


def test_a_horizon_that_could_turn_beta_negative_is_refused():
    coefficient = Adaptive(target=6.0, horizon=100.0)
    coefficient.update(0.0, 499)
    assert 0 < coefficient.beta(1) < 0.2 * 0.01
    with pytest.raises(ValueError, match="beta could turn negative"):
        coefficient.update(0.0, 500)


def test_both_satisfy_the_contract():
    assert issubclass(Constant, Coefficient) and issubclass(Adaptive, Coefficient)
