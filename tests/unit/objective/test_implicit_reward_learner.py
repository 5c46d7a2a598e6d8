"""The losses of implicit rewards in the learner: groups stay whole in micro-batches; what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model
from unit.learner.small import batch, capture_gradient, make, moved, node

from align.config import recipes
from align.errors import RecipeError

LINK = {"kl": {"placement": "link", "coefficient": 0.1}}
PLUGIN = """
from dataclasses import dataclass
from align.algorithms.log_variance import LogVariance

@dataclass(frozen=True)
class Mine(LogVariance):
    needs = frozenset({"rewards", "ref_lopg"})
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", ["log_variance", "copg", "trajectory_balance"])
def test_the_gradient_does_not_depend_on_micro_batches(name: str, model: Path):
    found = []
    for micro_tokens in (10_000, 1):
        learner = moved(make(model, algorithm=name, regularizers=LINK, batch={"prompts": 4, "samples": 3, "micro_tokens": micro_tokens}))
        found.append(capture_gradient(learner, batch(learner)))
    for key, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][key], rtol=1e-4, atol=1e-6)
    assert max(gradient.abs().max() for gradient in found[0].values()) > 1e-3


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ({"regularizers": {}}, "regularizers", "needs exactly one regularizer with placement: link"),
        (
            {"regularizers": LINK | {"more": {"placement": "reward", "coefficient": 0.1}}},
            "algorithm",
            "regularizers.more is taken from the advantage of each token: give it placement: loss",
        ),
        (
            {"regularizers": LINK, "shapings": {"bonus": "entropy_bonus"}},
            "algorithm",
            "shapings.bonus (entropy_bonus(gain=0.4, bound=2.0)) changes the advantages of tokens: use a shaping of rewards",
        ),
        ({"regularizers": LINK, "batch": {"prompts": 4, "samples": 1}}, "batch.samples", "compares at least 2 answers to a prompt"),
    ],
    ids=["no link", "reward placement", "shaping of tokens", "one answer"],
)
def test_refused(changes: dict, where: str, says: str, tmp_path: Path):
    with pytest.raises(RecipeError) as caught:
        recipes.build(node(tmp_path, algorithm="log_variance", **changes))
    assert caught.value.where == where and says in str(caught.value)


def test_a_need_that_no_batch_has_is_refused(tmp_path: Path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    with pytest.raises(RecipeError, match="needs ref_lopg, which no column of a batch is called"):
        recipes.build(node(tmp_path, algorithm=f"{tmp_path}/mine.py:Mine", regularizers=LINK))
