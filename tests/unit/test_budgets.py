"""The learner's budgets on a device of a given size."""

import pytest

from align.learner.budgets import planned
from align.learner.memory import ModelShape
from align.recipe import build

SHAPE = ModelShape(parameters=10**6, trained=10**6, vocabulary=1000, hidden=64, layers=2, intermediate=128, queries=64, keys=64)


@pytest.mark.parametrize("exact", [0, 1, 2])
def test_logits_that_fit_are_kept_of_the_policy_and_of_each_reference(exact):
    divergences = ("reverse_kl", "jensen_shannon")[:exact]
    recipe = build({"steps": 1, "task": "countdown", "algorithm": "grpo", "reward": "exact", "model": {"path": "unused"},
                    "regularizers": {name: {"divergence": name, "coefficient": 0.1, "estimator": "exact"} for name in divergences}})
    budgets = planned(recipe, SHAPE, 80e9)
    assert budgets.head_elements == budgets.micro_tokens * 1000 * (1 + exact)
