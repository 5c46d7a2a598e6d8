"""A user's part of any room refuses a recipe as a shipped one does: in `check`, `explain`, `audit` and the handbook alike."""

import json
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from align.cli import app
from align.config import nodes, recipes, registry, schema
from align.config.checks import check_writers
from align.config.refusals import parts_with_settings
from align.errors import RecipeError
from align.tools import reference_page

PLUGINS = '''
from align.algorithms.grpo import Grpo
from align.divergences.reverse_kl import ReverseKl
from align.references.frozen import Frozen
from align.regularizers.composed import Composed
from align.surrogates.clipped import Clipped


class SmallBatches:
    """Refuses a batch of more than one prompt."""

    def refuse(self, setting):
        return f"no more than 1 prompt at {setting.where}" if setting.recipe.batch.prompts > 1 else None


class Algorithm(SmallBatches, Grpo): pass
class Reference(SmallBatches, Frozen): pass
class Regularizer(SmallBatches, Composed): pass
class Surrogate(SmallBatches, Clipped): pass


class Varies(Clipped):
    """A ratio of its own for each sign of the advantage."""

    @property
    def ratio_varies(self):
        return "mine has two ratios: use clipped"


class Divergence(SmallBatches):
    def f(self, log_u):
        return (log_u / 2).expm1() ** 2


class Estimator(SmallBatches):
    """Unbiased, in the loss alone."""

    weighted = True

    def refuse(self, setting):
        return "none of mine in the reward" if setting.regularizer.placement == "reward" else super().refuse(setting)


class Coefficient(SmallBatches):
    def beta(self, step, state):
        return 0.1


class Weighting(SmallBatches):
    def weights(self, batch, name):
        return batch.loss_weights * 0 + 1


class Shaping(SmallBatches): pass


class Reward(SmallBatches):
    def score(self, prompt, response):
        return 1.0


class Writer(SmallBatches):
    def open(self, folder, run, recipe, done):
        raise NotImplementedError


class Doubled:
    """Twice the gradient, and says so."""

    weighted = True

    def grad_weight(self, divergence, log_u):
        return 2 * divergence.grad_weight(log_u)

    def published_bias(self, *, placement, credit, on_policy):
        return "doubled has twice the gradient, as its paper says" if placement == "loss" else None


class Silent(Doubled):
    """Twice the gradient, and says nothing."""

    def published_bias(self, *, placement, credit, on_policy):
        return None


class Raises:
    def f(self, log_u):
        return log_u.exp() * log_u

    def refuse(self, setting):
        return setting.recipe.absent


class Answers(Raises):
    def refuse(self, setting):
        return False


class Other(Raises):
    def refuse(self, recipe, where):
        return None


class Old(Raises):
    def refusal(self, *, on_policy, samples):
        return None
'''
PLACES = {
    "algorithm": "algorithm",
    "surrogate": "algorithm.surrogate",
    "reward": "reward",
    "shaping": "shapings.mine",
    "writer": "writers.mine",
    "regularizer": "regularizers.kl",
    **{kind: f"regularizers.kl.{kind}" for kind in ("coefficient", "divergence", "estimator", "reference", "weighting")},
}
"""Where each part of the file may stand."""


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("mine") / "mine.py"
    file.write_text(textwrap.dedent(PLUGINS))
    return str(file)


def node(where: str, part: str | dict, prompts: int = 8, **regularizer) -> dict:
    """A recipe with this part at this key."""
    found = {
        "steps": 2,
        "task": "countdown",
        "reward": "countdown_exact",
        "algorithm": {"name": "grpo"},
        "model": {"path": "nowhere"},
        "batch": {"prompts": prompts},
        "regularizers": {"kl": {"coefficient": 0.1} | regularizer},
        "shapings": {},
        "writers": {},
    }
    *above, last = where.split(".")
    inner = found
    for key in above:
        inner = inner[key]
    named = isinstance(part, str) and isinstance(inner.get(last), dict)
    inner[last] = inner[last] | {"name": part} if named else part
    return found


def build(*args, **keys) -> schema.Recipe:
    built = recipes.build(node(*args, **keys))
    check_writers(built)
    return built


@pytest.mark.parametrize("kind", PLACES)
def test_a_part_of_any_room_refuses_a_recipe_at_its_key(kind: str, mine: str):
    build(PLACES[kind], f"{mine}:{kind.capitalize()}", prompts=1)
    with pytest.raises(RecipeError) as refused:
        build(PLACES[kind], f"{mine}:{kind.capitalize()}")
    assert (refused.value.where, refused.value.problem) == (PLACES[kind], f"no more than 1 prompt at {PLACES[kind]}")


def test_every_room_has_the_contract_and_every_part_is_asked_after_those_inside_it(mine: str):
    assert all("refuse" in dir(registry.contract(kind)) for kind in registry.ROOMS)
    warm = {"name": "warmup", "steps": 4, "to": f"{mine}:Coefficient"}
    asked = [setting.where for _, setting in parts_with_settings(nodes.build(schema.Recipe, node("regularizers.kl.coefficient", warm), ""))]
    assert len(set(asked)) == len(asked) and {"task", "engine", "algorithm.advantage", "algorithm.reduction"} <= set(asked)
    inner, outer, whole = (asked.index(f"regularizers.kl{end}") for end in (".coefficient.to", ".coefficient", ""))
    assert inner < outer < whole
    with pytest.raises(RecipeError, match=r"^regularizers.kl.coefficient.to: no more than 1"):
        build("regularizers.kl.coefficient", warm)


def test_a_refuse_that_fails_is_one_error_with_part_file_and_line(mine: str):
    line = 1 + [text.strip() for text in Path(mine).read_text().splitlines()].index("return setting.recipe.absent")
    with pytest.raises(RecipeError) as failed:
        build("regularizers.kl.divergence", f"{mine}:Raises")
    assert failed.value.where == "regularizers.kl.divergence"
    assert failed.value.problem.startswith(f"{mine}:{line}: AttributeError: 'Recipe' object has no attribute 'absent'\n")
    assert f"`refuse` of {mine}:Raises failed: it takes a Setting" in failed.value.problem
    with pytest.raises(RecipeError, match=r"returned False: it takes a Setting and returns None, or one sentence"):
        build("regularizers.kl.divergence", f"{mine}:Answers")
    with pytest.raises(RecipeError, match=r"refuse\(self, recipe, where\) of Other must be refuse\(self, setting\)"):
        build("regularizers.kl.divergence", f"{mine}:Other")
    with pytest.raises(RecipeError, match=r"mine.py:\d+: `refusal` is called `refuse\(self, setting\)`"):
        build("regularizers.kl.divergence", f"{mine}:Old")


@pytest.mark.parametrize(("name", "says"), [("Doubled", "as its paper says"), ("Silent", "2 × that of reverse_kl, not of this divergence")])
def test_a_bias_is_allowed_and_told(name: str, says: str, mine: str):
    """Stated by a user's estimator, or found by enumeration: refused, run with allow_biased, explained with the same words."""
    where, part = "regularizers.kl.estimator", f"{mine}:{name}"
    with pytest.raises(RecipeError, match=rf"^regularizers.kl: .*{says}.*, or set allow_biased: true"):
        build(where, part)
    build(where, part, allow_biased=True)
    found = CliRunner().invoke(app, ["audit", part, "--json"])
    (certificate,) = json.loads(found.stdout)
    assert found.exit_code == 1 and certificate["verdict"] == "biased" and says in certificate["refusal"]
    assert json.loads(CliRunner().invoke(app, ["audit", part, "allow_biased=true", "--json"]).stdout)[0]["passes"]


def test_a_penalty_in_the_reward_is_refused_under_a_surrogate_whose_ratio_varies(mine: str, tmp_path: Path):
    """What a user's surrogate states counts off-policy, and for the audit of the recipe too."""
    varies = {"surrogate": f"{mine}:Varies"}
    recipes.build(node("algorithm", {"name": "grpo"} | varies, placement="reward"))
    wrong = node("algorithm", {"name": "grpo", "minibatches": 2} | varies, placement="reward")
    with pytest.raises(RecipeError, match=r"^regularizers.kl: surrogate .*Varies.* do not go together off-policy: mine has two ratios"):
        recipes.build(wrong)
    file = tmp_path / "r.yaml"
    file.write_text(json.dumps(wrong))
    (certificate,) = json.loads(CliRunner().invoke(app, ["audit", str(file), "--json"]).stdout)
    assert certificate["verdict"] == "refused" and "mine has two ratios" in certificate["refusal"]


def test_explain_and_audit_refuse_what_check_refuses(mine: str, tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text(json.dumps(node("regularizers.kl.estimator", f"{mine}:Estimator", placement="reward")))
    explained = CliRunner().invoke(app, ["explain", str(file)])
    assert explained.exit_code == 2 and "regularizers.kl.estimator: none of mine in the reward" in " ".join(explained.stderr.split())
    (certificate,) = json.loads(CliRunner().invoke(app, ["audit", str(file), "--json"]).stdout)
    assert (certificate["verdict"], certificate["refusal"]) == ("refused", "none of mine in the reward")


def test_the_table_of_legal_cells_is_that_of_the_parts_a_users_too(mine: str):
    divergences = [nodes.build_part("divergence", name, name) for name in ("reverse_kl", "pearson", f"{mine}:Divergence")]
    estimators = [nodes.build_part("estimator", f"{mine}:{name}", name) for name in ("Estimator", "Doubled")]
    page = reference_page.products(divergences, estimators)
    header, _, own, doubled = ([cell.strip() for cell in line.split("|")[1:-1]] for line in page[4].splitlines())
    own, doubled = (dict(zip(header, row, strict=True)) for row in (own, doubled))
    # The recipe of defaults has 2 prompts, which `Estimator` and `Divergence` refuse.
    assert {own[cell] for cell in header if "," in cell} == {"—"}
    assert doubled["loss, local"] == "biased" and doubled["reward, local"] == "yes"
    assert doubled["divergences"] == f"all but `{mine}:Divergence`"
    assert "no more than 1 prompt" in page[-1] and "none of mine in the reward" in page[-1] and "as its paper says" in page[-1]


def test_a_reference_inside_another_does_not_take_the_others_distance_for_its_own():
    """After a longer prompt the policy of the batch's begin is another distribution, also where each batch serves one update."""
    build("regularizers.kl.reference", {"name": "context", "prepend": "In one word: ", "of": "behaviour"})
    with pytest.raises(RecipeError, match=r"^regularizers.kl.reference: changes nothing: each batch serves one update"):
        build("regularizers.kl.reference", "behaviour")
    with pytest.raises(RecipeError, match=r"^regularizers.kl.reference: of must be a reference that reads prompts"):
        build("regularizers.kl.reference", {"name": "context", "prepend": "In one word: ", "of": "sampler"})
