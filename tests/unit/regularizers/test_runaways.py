"""What would drive a policy away in silence is refused: negative weights and multipliers, dual ascent without descent."""

from pathlib import Path

import pytest
from helpers.models import tiny_model
from unit.learner.small import batch, make

from align.config import recipes
from align.errors import RecipeError
from align.testing import check_weighting

PLUGINS = """
import torch

class Signed:
    '''Half of the tokens pushed away.'''
    signed = True
    def weights(self, batch, name):
        return torch.where(batch.positions % 2 == 0, 1.0, -0.5)

class Careless:
    '''The same, without a word.'''
    def weights(self, batch, name):
        return torch.where(batch.positions % 2 == 0, 1.0, -0.5)

class Below:
    '''A multiplier below 0.'''
    def beta(self, step, state):
        return 0.1
    def multipliers(self, batch, name, state):
        return torch.full((len(batch.lengths),), -1.0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runaways")
    tiny_model(folder / "model")
    (folder / "own.py").write_text(PLUGINS)
    return folder


@pytest.mark.parametrize(
    ("keys", "where", "says"),
    [
        ({"weighting": "Careless"}, "weighting", r"own.py:\d+: Careless.weights returned -0.5 at \d+ of \d+ places, must be >= 0"),
        ({"weighting": {"name": "normalized", "of": "Careless"}}, "weighting", "must be >= 0"),
        ({"coefficient": "Below"}, "coefficient", r"Below.multipliers returned -1 at 12 of 12 places, must be >= 0"),
    ],
    ids=str,
)
def test_a_negative_weight_stops_the_run_at_its_author(folder, keys, where, says):
    regularizer = {"coefficient": 0.1} | named(keys, folder)
    learner = make(folder / "model", regularizers={"kl": regularizer})
    with pytest.raises(RecipeError, match=says) as refused:
        batch(learner)
    assert refused.value.where == f"regularizers.kl.{where}" and len(str(refused.value).splitlines()) == 1


def named(keys: dict, folder: Path) -> dict:
    return {
        key: f"{folder}/own.py:{value}" if isinstance(value, str) else {"name": value["name"], "of": f"{folder}/own.py:{value['of']}"}
        for key, value in keys.items()
    }


@pytest.mark.parametrize("keys", [{"weighting": "Signed"}, {"weighting": {"name": "normalized", "of": "Signed"}}], ids=str)
def test_a_weighting_may_declare_signed_weights(folder, keys):
    scored = batch(make(folder / "model", regularizers={"kl": {"coefficient": 0.1} | named(keys, folder)}))
    assert scored.penalty_weights["kl"].min() < 0


def test_the_kit_of_weightings_takes_the_declaration(folder):
    failed = {name: [f.name for f in check_weighting(f"{folder}/own.py:{name}") if not f.passed] for name in ("Signed", "Careless")}
    assert failed["Signed"] == [] and "weights" in failed["Careless"]


def dpo(**regularizer):
    return recipes.build(
        {
            "steps": 2,
            "task": {"name": "preferences", "path": "nowhere.jsonl"},
            "algorithm": "dpo",
            "model": {"path": "nowhere"},
            "regularizers": {"kl": {"placement": "link"} | regularizer},
        }
    )


@pytest.mark.parametrize(
    "coefficient",
    [
        "feasible",
        {"name": "lagrangian", "target": 1.0},
        {"name": "warmup", "steps": 3, "to": "feasible"},
        {"name": "warmup", "steps": 3, "to": {"name": "lagrangian", "target": 1.0}},
    ],
    ids=str,
)
@pytest.mark.parametrize("estimator", ["exact", "sampled"])
def test_dual_ascent_is_refused_in_a_link(coefficient, estimator):
    with pytest.raises(RecipeError, match="beta then grows without end") as refused:
        dpo(coefficient=coefficient, estimator=estimator)
    assert refused.value.where == "regularizers.kl.coefficient" and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("coefficient", [0.1, {"name": "linear", "start": 0.2, "end": 0.1, "steps": 2}, {"name": "beta_dpo"}], ids=str)
def test_what_does_not_ascend_is_a_beta_of_a_link(coefficient):
    assert dpo(coefficient=coefficient).regularizers["kl"].placement == "link"


def grpo(**regularizer):
    return recipes.build(
        {"steps": 2, "task": "countdown", "reward": "countdown_exact", "algorithm": "grpo", "model": {"path": "nowhere"}}
        | {"batch": {"prompts": 4}, "regularizers": {"kl": regularizer}}
    )


FOLLOWING = [
    {"name": "lagrangian", "target": 1.0},
    "feasible",
    {"name": "adaptive", "target": 1.0},
    {"name": "ppo_penalty", "target": 1.0},
    {"name": "warmup", "steps": 2, "to": "feasible"},
]


@pytest.mark.parametrize("coefficient", FOLLOWING, ids=str)
@pytest.mark.parametrize(("estimator", "placement"), [("k1", "loss"), ("k3", "reward"), ("abs", "reward")])
def test_a_coefficient_that_follows_a_gradient_which_does_not_lower_the_divergence_is_refused(coefficient, estimator, placement):
    form = {"estimator": estimator, "placement": placement, "allow_biased": True}
    assert grpo(coefficient=0.1, **form)
    with pytest.raises(RecipeError, match="does not lower the divergence: beta would grow without end") as refused:
        grpo(coefficient=coefficient, **form)
    assert refused.value.where == "regularizers.kl"


@pytest.mark.parametrize("coefficient", FOLLOWING, ids=str)
def test_a_coefficient_may_follow_what_lowers_the_divergence(coefficient):
    assert grpo(coefficient=coefficient, estimator="k3", allow_biased=True)
    assert grpo(coefficient=coefficient, estimator="exact")
    assert grpo(coefficient=coefficient, placement="reward", credit="summed")
