"""Where RPG's divergence from pi_old would change nothing, or cannot be measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.learner.small import node

from align.config import recipes
from align.errors import RecipeError


@pytest.mark.parametrize("name", ["rpg", "rpg_reinforce"])
@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"epochs": 1}, "beta and divergence change nothing: each batch serves one update"),
        ({"divergence": "renyi"}, "one sampled token does not tell"),
        ({"beta": 0}, "beta must be positive"),
    ],
    ids=["on-policy", "no f", "beta"],
)
def test_refused(name: str, keys: dict, says: str, tmp_path: Path):
    with pytest.raises(RecipeError) as caught:
        recipes.build(node(tmp_path, algorithm={"name": name} | keys))
    assert caught.value.where == "algorithm" and says in str(caught.value)
