"""Recipes of DPO that are refused, each at its key, and those that look alike and are right."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.dpo.pairs import node

from align.config import recipes
from align.errors import RecipeError

LINK = {"placement": "link", "coefficient": 0.1}
GRPO = {"algorithm": "grpo", "reward": "countdown_exact", "task": "countdown"}


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        (
            {"regularizers": {}},
            "regularizers",
            "dpo needs exactly one regularizer with placement: link, whose divergence and coefficient make "
            "the implicit reward; there are 0",
        ),
        ({"regularizers": {"a": LINK, "b": LINK | {"divergence": "forward_kl"}}}, "regularizers", "there are 2"),
        ({"regularizers": {"kl": {"coefficient": 0.1, "estimator": "exact"}}}, "regularizers", "there are 0"),
        ({"regularizers": {"kl": LINK}, **GRPO}, "regularizers.kl.placement", "grpo has no loss of implicit rewards to link to"),
        (
            {"regularizers": {"kl": LINK | {"coefficient": 0.0}}},
            "regularizers.kl.coefficient",
            "a link without beta has no implicit reward",
        ),
        (
            {"regularizers": {"kl": LINK | {"coefficient": {"name": "linear", "start": 0.1, "end": 0.0, "steps": 3}}}},
            "regularizers.kl.coefficient",
            "is 0 at some step",
        ),
        (
            {"regularizers": {"kl": LINK | {"coefficient": {"name": "adaptive", "target": 0.1}}}},
            "regularizers.kl.coefficient",
            "a ranking's answers are not drawn from the policy",
        ),
        ({"regularizers": {"kl": {"coefficient": {"name": "beta_dpo"}}}, **GRPO}, "regularizers.kl.coefficient", "compares ranked answers"),
        (
            {"regularizers": {"kl": LINK | {"weighting": "difficulty"}}},
            "regularizers.kl.weighting",
            "looks at rewards, and this algorithm's data have none",
        ),
        (
            {"regularizers": {"kl": LINK | {"reference": "precomputed", "estimator": "exact"}}},
            "regularizers.kl.reference",
            "keeps the log-probs of the answers alone",
        ),
        (
            {"regularizers": {"kl": {"coefficient": 0.1, "reference": "precomputed"}}, **GRPO},
            "regularizers.kl.reference",
            "grpo learns from rollouts, and only rankings are known before the first step",
        ),
        (
            {
                "regularizers": {"kl": {"coefficient": 0.1, "estimator": "exact", "reference": "precomputed"}},
                "algorithm": "sft",
                "task": "countdown",
            },
            "regularizers.kl.reference",
            "sft learns from demonstrations",
        ),
        (
            {"regularizers": {"kl": LINK | {"reference": {"name": "hard_reset", "every": 1}}}},
            "regularizers.kl.reference",
            "every divergence is 0",
        ),
        ({"reward": "countdown_exact"}, "reward", "changes nothing: dpo learns from rankings; delete the key"),
        ({"batch": {"prompts": 4, "samples": 3}}, "batch.samples", "changes nothing: dpo learns from rankings"),
        ({"batch": {"prompts": 4}, "algorithm": {"name": "dpo", "minibatches": 3}}, "batch.prompts", "do not divide into 3 minibatches"),
        ({"reward_limits": {"seconds": 2.0}}, "reward_limits.seconds", "changes nothing: dpo learns from rankings"),
        (
            {"shapings": {"long": {"name": "overlong", "limit": 6, "buffer": 5}}},
            "shapings.long",
            "changes nothing: dpo learns from rankings",
        ),
        ({"algorithm": "reward_model"}, "regularizers.kl", "reward_model trains a reward model, so there is no policy to regularize"),
        ({"algorithm": "reward_model", "regularizers": {}, "evaluation": {"samples": 3}}, "evaluation.samples", "which has no answers"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_recipe_that_makes_no_sense_is_refused_at_its_key(changes: dict, where: str, says: str):
    with pytest.raises(RecipeError) as refused:
        recipes.build({k: v for k, v in node(Path("nowhere")).items() if k not in ("evaluation", "workers")} | changes)
    assert refused.value.where == where
    assert says in str(refused.value)


def test_what_looks_alike_and_is_right_is_built():
    for link in (
        {"coefficient": {"name": "adaptive", "target": 0.1}, "estimator": "exact"},
        {"coefficient": {"name": "beta_dpo"}},
        {"weighting": "sampo"},
        {"reference": "precomputed"},
    ):
        recipes.build(node(Path("nowhere"), link=link))
    recipes.build(node(Path("nowhere"), regularizers={"kl": LINK, "far": {"coefficient": 0.1, "estimator": "exact"}}))
