"""Shapings in a recipe: their order, what is refused, a user's own, and that every key is listed and explained."""

from __future__ import annotations

import io
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from helpers.built import advantages
from rich.console import Console
from unit.shapings.batches import SEQUENCES, batch, close, node

from align.config import recipes, registry
from align.errors import RecipeError
from align.experience.prepare import prepare_batch
from align.inspect.catalogue import catalogue
from align.inspect.explain import show


def test_rewards_are_shaped_before_the_advantages_and_stay_what_they_were():
    two = {
        "short": {"name": "overlong", "limit": 4, "buffer": 2, "factor": 0.5},
        "shorter": {"name": "overlong", "limit": 3, "buffer": 3},
        "entropy": "entropy_bonus",
    }
    made = recipes.build(node(two))
    one = replace(batch(), betas={})
    done = prepare_batch(made, one)
    rewards = torch.tensor([1.0 - 2 / 3, -1 / 3, -0.25 - 1, 0.5 - 0.5 - 1])
    plain = advantages("group_standardised", rewards, one.group_ids)[SEQUENCES]
    close(done.advantages, plain + torch.minimum(0.4 * one.entropy, plain.abs() / 2))
    assert torch.equal(done.rewards, one.rewards)
    bonus = torch.minimum(0.4 * one.entropy, plain.abs() / 2)
    assert done.shaped == pytest.approx(
        {
            "shaping/short/rewards": -0.75 / 4,
            "shaping/short/share/rewards": 0.5,
            "shaping/shorter/rewards": -3 / 4,
            "shaping/shorter/share/rewards": 1.0,
            "shaping/entropy/advantages": bonus.mean().item(),
            "shaping/entropy/share/advantages": 0.6,
        },
        rel=1e-5,
    )


@pytest.mark.parametrize(
    ("shapings", "changes", "where", "says"),
    [
        (
            {"x": "entropy_bonus"},
            {"algorithm": "sft", "reward": None, "batch": {"prompts": 2}},
            "shapings.x",
            "sft learns from demonstrations",
        ),
        ({"x": {"name": "overlong", "limit": 20, "buffer": 8}}, {}, "shapings.x", "starts above limit - buffer = 12"),
        ({"x": {"name": "overlong", "limit": 4, "buffer": 5}}, {}, "shapings.x", "buffer must lie in"),
        ({"x": {"name": "overlong", "limit": 4, "buffer": 2, "factor": 0.0}}, {}, "shapings.x", "factor must be positive"),
        ({"x": {"name": "length_complexity", "base": 1.0}}, {}, "shapings.x", "base must be above 1"),
        ({"x": {"name": "entropy_bonus", "bound": 1.0}}, {}, "shapings.x", "can undo the advantage"),
        ({"x": {"name": "uncertainty_bonus"}}, {}, "shapings.x.steps", "must be given"),
        ({"x": {"name": "uncertainty_bonus", "steps": 9, "entropy_bound": 1.5}}, {}, "shapings.x", "turn the sign"),
        ({"x": {"name": "uncertainty_bonus", "steps": 9, "share": 1.0}}, {}, "shapings.x", "share must lie in"),
        ({"x": {"name": "uncertainty_bonus", "steps": 9, "divergence_gain": 0.0}}, {}, "shapings.x", "use entropy_bonus"),
        ({"x": {"name": "uncertainty_bonus", "steps": 9, "mask_id": -1}}, {}, "shapings.x.mask_id", "must be at least 0"),
        ({"x": {"name": "munchausen", "floor": 0.0}}, {}, "shapings.x", "floor negative"),
        ({"x": {"name": "munchausen", "credit": "sequence"}}, {}, "shapings.x", "credit must be one of local, summed"),
        ({"x": {"name": "importance", "level": "answer"}}, {}, "shapings.x", "level must be one of token, sequence"),
        ({"x": {"name": "importance", "beyond_cap": "clip"}}, {}, "shapings.x", "beyond_cap must be"),
        ({"x": {"name": "importance", "cap": 1.0}}, {}, "shapings.x", "cap must be above 1"),
        ({"x": "overlongs"}, {}, "shapings.x", "did you mean 'overlong'?"),
        ("entropy_bonus", {}, "shapings", "must map a name of your choice to a shaping"),
    ],
)
def test_one_that_makes_no_sense_is_refused_at_its_key(shapings, changes: dict, where: str, says: str):
    with pytest.raises(RecipeError) as refused:
        recipes.build(node(shapings, **changes))
    assert refused.value.where == where and says in str(refused.value)


def test_an_algorithm_without_advantages_has_nothing_to_shape(tmp_path: Path):
    file = tmp_path / "own.py"
    file.write_text(
        "from typing import Any\nfrom align.config.nodes import part\n"
        "class Own:\n    reduction: Any = part('reduction', 'token')\n    def loss(self, ctx, advantages): ...\n"
    )
    with pytest.raises(RecipeError, match="uses no advantages"):
        recipes.build(node({"x": "entropy_bonus"}, algorithm=f"{file}:Own"))


def test_a_shaping_of_ones_own(tmp_path: Path):
    file = tmp_path / "own.py"
    file.write_text(
        "class Halved:\n    '''Half of it.'''\n    by: float = 2.0\n    def advantages(self, batch, advantages, name):\n"
        "        return advantages / self.by\n"
    )
    made = recipes.build(node({"x": {"name": f"{file}:Halved", "by": 4.0}}))
    plain = prepare_batch(recipes.build(node({})), replace(batch(), betas={}))
    assert torch.equal(prepare_batch(made, replace(batch(), betas={})).advantages, plain.advantages / 4)


def test_every_shaping_and_key_is_listed_explained_and_tested():
    listed = {part["name"]: {key["name"] for key in part["keys"]} for part in catalogue("shaping")}
    assert listed == {name: {f.name for f in fields(registry.resolve("shaping", name, ""))} for name in registry.shipped("shaping")}
    assert listed == {
        "overlong": {"limit", "buffer", "factor"},
        "length_complexity": {"base", "solved_at"},
        "entropy_bonus": {"gain", "bound"},
        "uncertainty_bonus": {"steps", "share", "mask_id", "seed", "entropy_gain", "entropy_bound", "divergence_gain", "divergence_bound"},
        "munchausen": {"alpha", "tau", "floor", "q", "credit"},
        "off_policy_mask": {"threshold"},
        "importance": {"level", "cap", "beyond_cap"},
        "win_rate": {"temperature"},
        "worst_case_rewards": {"strength", "parts"},
    }, "the tests of shapings are of these"
    console = Console(file=io.StringIO(), width=300)
    show(recipes.build(node({"long": {"name": "overlong", "limit": 4, "buffer": 2}, "sure": "importance"})), console)
    text = console.file.getvalue()
    assert "shaped by long, sure: see below" in text
    section = text.split("shapings, in this order")[1].split("batch")[0]
    first, second = "overlong(limit=4, buffer=2, factor=1.0): DAPO's soft overlong punishment", "importance(level=token"
    assert section.index(first) < section.index(second)
    assert "align/shapings/importance.py:" in section
