"""What makes no sense beside a critic, and what does."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.ppo.learner import make, node, scored

from align.config import recipes
from align.config.nodes import build_part
from align.errors import RecipeError

OWN = '''
from typing import Any

import torch
from align.config.nodes import part
from align.regularizers import Penalty

class Own:
    """Without `reward_penalty`."""
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
        (
            {"regularizers": {"kl": {"coefficient": 0.1, "placement": "link"}}},
            "regularizers.kl.placement",
            "no loss of implicit rewards to link to",
        ),
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
    with pytest.raises(RecipeError, match="x: cannot be taken from the rewards that a critic learns: Own has no `reward_penalty`; use"):
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
