"""Several rewards: their weighted sum, and what combines their parts, against the papers' definitions in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from align.advantages.gdpo import Gdpo
from align.config import recipes
from align.config.nodes import build_part
from align.config.schema import RewardLimits
from align.core.reward_parts import on_simplex, worst_case_weights
from align.errors import RecipeError
from align.rewards import start_reward
from align.shapings.win_rate import WinRate
from align.shapings.worst_case_rewards import WorstCaseRewards
from align.types import Episode, Group, Prompt, TokenBatch
from align.workers.reward_runner import run_rewards

PLUGIN = """
from align.rewards import Stepwise


def length(response):
    return float(len(response))


def parts(response):
    return {"total": 2.0, "inner": 0.5}


def steps(response):
    return Stepwise(steps=[(0, 0.25)], answer={"total": 1.0, "end": 0.75})


def broken(response):
    raise ValueError("no number")
"""


@pytest.fixture
def own(tmp_path) -> str:
    (tmp_path / "own.py").write_text(PLUGIN)
    return f"{tmp_path}/own.py"


def group(*texts: str) -> Group:
    return Group(prompt=Prompt(id="0", text="", token_ids=(1,)), episodes=tuple(Episode.single_turn(np.int32([1]), text) for text in texts))


def test_a_sum_is_weighed_and_every_part_is_kept(own: str):
    rewards = {"long": f"{own}:length", "two": f"{own}:parts", "step": f"{own}:steps"}
    reward = build_part("reward", {"name": "sum", "rewards": rewards, "weights": {"long": 0.5, "step": 2.0}}, "reward")
    found = run_rewards(start_reward(reward), RewardLimits(), [group("abc", "a")])
    assert found.values.tolist() == [5.5, 4.5]
    assert {name: part.tolist() for name, part in found.parts.items()} == {
        "long": [3.0, 1.0], "two": [2.0, 2.0], "two/inner": [0.5, 0.5], "step": [1.0, 1.0], "step/end": [0.75, 0.75],
    }  # fmt: skip
    assert found.step_rewards == (((0, 0.5),), ((0, 0.5),))


@pytest.mark.parametrize(
    ("rewards", "found"),
    [
        ({"long": "brevity", "right": {"name": "exact_match", "extract": "boxed"}}, "7"),
        ({"inner": {"name": "sum", "rewards": {"long": "brevity", "right": {"name": "exact_match", "extract": "boxed"}}}}, "7"),
        ({"judged": {"name": "learned", "path": "x", "gold": {"name": "exact_match", "extract": "boxed"}}}, "7"),
        ({"short": "brevity"}, "so \\boxed{7}"),
    ],
    ids=["sum", "sum of a sum", "gold", "none looks"],
)
def test_the_final_answer_of_a_sum_is_what_its_first_reward_that_looks_for_one_finds(rewards: dict, found: str):
    assert build_part("reward", {"name": "sum", "rewards": rewards}, "reward").final_answer(" so \\boxed{7} ") == found


def test_an_answer_of_which_one_reward_fails_has_failed(own: str):
    reward = build_part("reward", {"name": "sum", "rewards": {"long": f"{own}:length", "bad": f"{own}:broken"}}, "reward")
    found = run_rewards(start_reward(reward), RewardLimits(), [group("abc")])
    assert found.failed == 1 and "no number" in str(found.first_failure)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({}, "rewards must name at least one"),
        ({"rewards": {"exact": "countdown_exact"}, "weights": {"exakt": 1.0}}, "weights names exakt, and the rewards are exact"),
        ({"rewards": {"a": "countdown_exact", "b": "match"}, "weights": {"a": 0, "b": 0}}, "weights are all 0, so every answer has the"),
        ({"rewards": {"total": "countdown_exact"}}, "a metric of every run"),
        ({"rewards": {"a/b": "countdown_exact"}}, "a slash separates a reward from its own parts"),
        ({"rewards": {"a": "countdown_exact"}, "weights": {"a": float("nan")}}, r"reward\.weights: nan is not a number"),
        ({"rewards": {"a": "countdown_exact"}, "weights": {"a": float("inf")}}, r"reward\.weights: must be finite, not inf"),
    ],
)
def test_a_sum_that_cannot_be(node: dict, says: str):
    with pytest.raises(RecipeError, match=says):
        build_part("reward", {"name": "sum", **node}, "reward")


def test_advantages_of_no_part_are_refused():
    with pytest.raises(ValueError, match="must not all be 0"):
        Gdpo(weights={"exact": 0.0})


def test_a_part_that_the_reward_lacks_is_refused_before_the_run():
    node = {
        "steps": 1,
        "task": "countdown",
        "model": {"path": "x"},
        "reward": {"name": "sum", "rewards": {"exact": "countdown_exact"}},
        "algorithm": {"name": "grpo", "advantage": {"name": "gdpo", "weights": {"exakt": 1.0}}},
    }
    with pytest.raises(RecipeError, match=r"algorithm\.advantage: the reward has no part called exakt; its parts are: exact"):
        recipes.build(node)


def test_rewards_with_time_limits_fit_together_into_that_of_an_answer():
    rewards = {"tests": {"name": "code", "seconds": 3.0}, "style": {"name": "code", "seconds": 3.0, "field": "lint"}, "exact": "match"}
    node = {"steps": 1, "task": "countdown", "model": {"path": "x"}, "algorithm": "grpo", "reward": {"name": "sum", "rewards": rewards}}
    says = r"reward: the time limits of its rewards \(tests 3 \+ style 3\) must together be below reward_limits.seconds 5.*above 6"
    with pytest.raises(RecipeError, match=says):
        recipes.build(node)
    assert recipes.build(node | {"reward_limits": {"seconds": 7.0}}).reward.own_seconds == 6.0


def batch(parts: dict[str, Tensor], group_ids: Tensor) -> TokenBatch:
    n = len(group_ids)
    one = torch.ones(n, dtype=torch.int64)
    return TokenBatch(
        input_ids=torch.zeros(n, 2, dtype=torch.int64), totals=2 * one, lengths=one, seq_ids=torch.arange(n), positions=0 * one,
        columns=one, group_ids=group_ids, reward_parts=parts, rewards=sum(p.nan_to_num(0.0) for p in parts.values()),
    )  # fmt: skip


GENERATOR = torch.Generator().manual_seed(0)
PARTS = {name: scale * torch.randn(12, generator=GENERATOR, dtype=torch.float64) for name, scale in (("a", 1.0), ("b", 30.0))}
IDS = torch.arange(12) // 4


def test_gdpo_is_normalize_then_sum():
    """TRL's `multi_objective_aggregation="normalize_then_sum"`, written from its arithmetic: [groups, answers, parts]."""
    parts = PARTS | {"b": torch.where(torch.arange(12) == 5, torch.nan, PARTS["b"])}
    grouped = torch.stack(list(parts.values()), -1).view(3, 4, 2)
    mean = grouped.nanmean(1, keepdim=True)
    count = (~grouped.isnan()).sum(1, keepdim=True)
    std = ((grouped - mean).square().nanmean(1, keepdim=True) * count / (count - 1)).sqrt()
    total = ((grouped - mean) / (std + 1e-4)).view(12, 2).mul(torch.tensor([1.0, 0.5])).nansum(1)
    wanted = (total - total.mean()) / (total.std() + 1e-4)
    found = Gdpo(weights={"a": 1.0, "b": 0.5}).advantages(batch(parts, IDS))
    assert torch.allclose(found.double(), wanted, atol=1e-6)


def test_gdpo_does_not_drown_a_part_of_small_spread():
    one, other = (Gdpo().advantages(batch({"a": PARTS["a"] * scale, "b": PARTS["b"]}, IDS)) for scale in (1.0, 1e3))
    assert torch.allclose(one, other, atol=1e-3)
    equal = Gdpo().advantages(batch({"a": torch.full((12,), 0.7), "b": torch.zeros(12)}, IDS))
    assert torch.equal(equal, torch.zeros(12))


def tilted(values: Tensor, w: Tensor, strength: float) -> Tensor:
    return torch.softmax(strength * values @ w, 0) @ values


@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_worst_case_weights_are_optimal(strength: float):
    """w minimises the convex log-mean-exp: parts with weight have the least expected value under the tilted answers, the others more."""
    for seed in range(8):
        values = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        w = worst_case_weights(values[None], torch.ones(1, 6, dtype=torch.bool), strength)[0]
        assert w.sum().item() == pytest.approx(1.0) and (w >= 0).all()
        means = tilted(values, w, strength)
        assert (means[w > 1e-6] - means.min() < 1e-3).all()
        for corner in torch.eye(3, dtype=torch.float64):
            assert torch.logsumexp(strength * values @ w, 0) <= torch.logsumexp(strength * values @ corner, 0) + 1e-9


def test_the_worst_case_of_dominated_parts_is_the_smaller_one():
    parts = {"good": torch.tensor([3.0, 4.0, 3.5, 9.0]), "bad": torch.tensor([0.0, 1.0, 0.5, -2.0])}
    shaping, own = WorstCaseRewards(strength=2.0), batch(parts, torch.tensor([0, 1, 0, 1]))
    assert torch.allclose(shaping.rewards(own, own.rewards), parts["bad"], atol=1e-4)
    assert shaping.metrics(own, "x")["weight/bad"] == pytest.approx(1.0, abs=1e-4)
    lacking = replace(own, reward_parts={"good": parts["good"], "bad": torch.tensor([0.0, torch.nan, 0.5, -2.0])})
    assert shaping.rewards(lacking, own.rewards)[1] == own.rewards[1]
    nothing = replace(own, reward_parts={name: torch.where(own.group_ids == 1, torch.nan, part) for name, part in parts.items()})
    assert shaping.rewards(nothing, own.rewards)[[1, 3]].tolist() == own.rewards[[1, 3]].tolist()
    assert shaping.metrics(nothing, "x")["weight/bad"] == pytest.approx(0.75, abs=1e-4)


def test_on_simplex_is_the_nearest_point():
    assert torch.allclose(on_simplex(torch.tensor([[0.2, 0.3, 0.5], [2.0, 0.0, 0.0], [0.5, 0.5, -1.0]])),
                          torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))  # fmt: skip


def test_win_rates_average_a_half_and_keep_the_order():
    """Antisymmetric preferences average 1/2 in each group; a strict order keeps its order."""
    own = batch({"a": PARTS["a"].float()}, IDS)
    for shaping in (WinRate(), WinRate(temperature=0.7)):
        found = shaping.rewards(own, own.rewards).view(3, 4)
        assert torch.allclose(found.mean(1), torch.full((3,), 0.5), atol=1e-6)
        assert torch.equal(found.argsort(1), own.rewards.view(3, 4).argsort(1))
    assert WinRate().rewards(own, torch.zeros(12)).tolist() == [0.5] * 12
    uneven = batch({"a": torch.tensor([3.0, 1.0, 2.0, 5.0])}, torch.tensor([0, 1, 0, 2]))
    assert WinRate().rewards(uneven, uneven.rewards).tolist() == [1.0, 0.5, 0.0, 0.5]
    assert sorted(WinRate().rewards(own, own.rewards)[:4].tolist()) == pytest.approx([0, 1 / 3, 2 / 3, 1])
