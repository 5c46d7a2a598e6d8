"""A recipe is data: two runs of one object are one run twice, and nothing of a run is left on it."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.models import tiny_model, tiny_scorer
from helpers.rollouts import groups
from liveness.leaves import REQUIRED
from liveness.nodes import filled
from liveness.places import made
from liveness.rooms.engine import started_vllm
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from align.config import nodes, recipes, registry, schema
from align.engines import Sampling
from align.errors import RecipeError, UserError
from align.experience.packing import pack
from align.learner.learner import Learner
from align.learner.parameters import OWN
from align.learner.policy import Policy
from align.run.changes import changes
from align.run.state import RunState
from align.train import train
from align.types import TokenBatch
from align.weight_sync.flattening import flatten as flatten_weights
from align.workers.local import LocalWorkers

STATEFUL = {"name": "adaptive", "target": 0.01, "initial": 0.1, "horizon": 40.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny_model(root / "policy")
    tiny_scorer(root / "scorer")
    return root


def node(models: Path, **changes) -> dict:
    """A coefficient, a reference, a critic and a reward, all of which change or hold a model."""
    return {
        "steps": 3,
        "task": {"name": "countdown", "size": 24},
        "algorithm": {"name": "ppo", "critic": "shared", "minibatches": 2},
        "reward": {"name": "learned", "path": str(models / "scorer"), "gold": "countdown_wordy"},
        "model": {"path": str(models / "policy")},
        "batch": {"prompts": 4, "samples": 3},
        "sampling": {"max_tokens": 6},
        "optimizer": {"lr": 1e-2},
        "workers": {"backend": "local"},
        "evaluation": {"every": 2, "problems": 2, "samples": 2},
        "regularizers": {"kl": {"coefficient": STATEFUL, "reference": {"name": "ema", "rate": 0.3}}},
    } | changes


def numbers(run_dir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("time", "memory", "tokens/s", "sync/seconds"))} for line in lines]


def held(thing: Any, seen: set[int]) -> Iterator[Any]:
    """A part, and everything that its attributes lead to; of classes and modules nothing."""
    if id(thing) in seen or isinstance(thing, type) or type(thing).__name__ == "module":
        return
    seen.add(id(thing))
    yield thing
    inner = (
        thing.values()
        if isinstance(thing, dict)
        else thing
        if isinstance(thing, list | tuple | set)
        else vars(thing).values()
        if hasattr(thing, "__dict__")
        else ()
    )
    for child in inner:
        yield from held(child, seen)


def written_to(thing: Any) -> list[Any]:
    """What it holds of a model, and objects of dataclasses that are not frozen."""
    return [
        x
        for x in held(thing, set())
        if isinstance(x, torch.Tensor | torch.nn.Module) or (dataclasses.is_dataclass(x) and not x.__dataclass_params__.frozen)
    ]


@pytest.fixture(scope="module")
def twice(models: Path, tmp_path_factory) -> tuple[schema.Recipe, list[Path]]:
    """One recipe object, trained two times."""
    built, root = recipes.build(node(models)), tmp_path_factory.mktemp("runs")
    folders = [root / name for name in ("first", "second")]
    for folder in folders:
        train(built, folder)
    return built, folders


def test_one_recipe_object_gives_the_same_run_twice(twice):
    one, two = map(numbers, twice[1])
    assert one == two
    betas = [line["beta/kl"] for line in one if "beta/kl" in line]
    assert betas[0] == 0.1 != betas[1], "the coefficient moves, and begins anew"
    assert [line["rollout/staleness"] for line in two if "rollout/staleness" in line] == [0, 0, 0], "so do the engine's versions"
    tensors = [load_file(folder / "model" / "model.safetensors") for folder in twice[1]]
    assert all(torch.equal(t, tensors[1][name]) for name, t in tensors[0].items())


def test_nothing_of_a_run_hangs_on_its_recipe(twice):
    built = twice[0]
    found = list(held(built, set()))
    assert built.regularizers["kl"].reference in found and built.reward.gold in found and built.algorithm.critic in found
    assert built.engine in found and not written_to(built)


def test_a_recipe_is_small_after_a_run(twice):
    assert len(pickle.dumps(twice[0])) < 20_000
    assert pickle.loads(pickle.dumps(twice[0].regularizers)) == twice[0].regularizers


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in registry.ROOMS for n in registry.shipped(k)], ids=str)
def test_every_part_is_frozen(kind: str, name: str):
    assert registry.resolve(kind, name, name).__dataclass_params__.frozen


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    return made(tmp_path_factory.mktemp("places"))


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in registry.ROOMS for n in registry.shipped(k)], ids=str)
def test_all_that_a_part_holds_is_frozen(kind: str, name: str, places: dict[str, str]):
    part = nodes.build_part(kind, filled({"name": name, **REQUIRED.get((kind, name), {})}, places), kind)
    assert part in list(held(part, set())) and not written_to(part)
    assert len(pickle.dumps(part)) < 20_000


@pytest.mark.parametrize("name", registry.shipped("engine"))
def test_an_engine_that_was_started_is_the_same_bytes(name: str, places: dict[str, str]):
    built = recipes.build(node(Path(places["folder"]), engine={"name": name, **REQUIRED.get(("engine", name), {})}, model={"path": "x"}))
    before = pickle.dumps(built)
    if name == "vllm":
        assert started_vllm(built.engine, places)
    else:
        engine = built.engine.start(places["model"], Sampling(max_tokens=4), 8)
        engine.load(3, flatten_weights(AutoModelForCausalLM.from_pretrained(places["model"]).named_parameters()))
        assert engine.version == 3 and built.engine.start(places["model"], Sampling(max_tokens=4), 8).version == 0
    assert pickle.dumps(built) == before and len(before) < 20_000


# A user's parts


def plugin(folder: Path, body: str, head: str = "") -> str:
    (folder / "mine.py").write_text(f"{head}\nclass Mine:\n    first: float = 0.1\n{body}")
    return f"{folder}/mine.py:Mine"


OLD = {
    "coefficient": (
        "    def beta(self, step):\n        return 1.0\n    def update(self, divergence, rollouts):\n        self.x = 1\n",
        [r"mine.py:4: beta\(self, step\) of Mine must be beta\(self, step, state\); what changes in a run is kept in the state, which"],
    ),
    "reference": (
        "    def start(self, policy):\n        self.x = 1\n    def parameters(self):\n        return ...\n",
        ["mine.py:6: `parameters` belongs to the object that `start` returns", "derives from align.references.RunningReference"],
    ),
    "critic": (
        "    def start(self, policy):\n        self.x = 1\n    def values(self, policy, micro, hidden):\n        return 0\n",
        ["mine.py:6: `values` belongs to the object that `start` returns", "derives from align.critics.RunningCritic"],
    ),
    "engine": (
        "    def start(self, *model):\n        self.x = 1\n    def generate(self, prompts, samples, seeds):\n        return []\n",
        ["mine.py:6: `generate` belongs to the object that `start` returns", "derives from align.engines.RunningEngine"],
    ),
}


@pytest.mark.parametrize("kind", OLD)
def test_a_plugin_of_the_contract_before_is_told_of_this_one(tmp_path: Path, kind: str):
    body, says = OLD[kind]
    for message in says:
        with pytest.raises(RecipeError, match=message) as refused:
            nodes.build_part(kind, plugin(tmp_path, body), "here")
        assert refused.value.where == "here"


def test_update_alone_of_the_contract_before(tmp_path: Path):
    body = "    def beta(self, step, state):\n        return 1.0\n    def update(self, divergence, rollouts):\n        pass\n"
    with pytest.raises(RecipeError, match=r"update\(self, divergence, rollouts\) of Mine must be update\(self, state, divergence, rol"):
        nodes.build_part("coefficient", plugin(tmp_path, body), "here")


def test_a_method_may_take_more_than_its_contract_gives(tmp_path: Path):
    body = "    def beta(self, step, state=None, *more):\n        return self.first\n"
    assert nodes.build_part("coefficient", plugin(tmp_path, body), "here").beta(0, {}) == 0.1


def test_a_plugin_that_writes_to_itself_is_told_where_state_goes(tmp_path: Path):
    writes = "    def beta(self, step, state):\n        self.seen = step\n        return 1.0\n"
    with pytest.raises(UserError, match=r"Mine writes to self\.seen: a coefficient is frozen.* kept in the state, which `initial_state`"):
        nodes.build_part("coefficient", plugin(tmp_path, writes), "here").beta(0, {})
    starts = "    def start(self, model_dir, sampling, max_prompt_tokens):\n        self.model = model_dir\n"
    with pytest.raises(UserError, match=r"Mine writes to self\.model: an engine is frozen, .* `start` returns, an align\.engines\.Run"):
        nodes.build_part("engine", plugin(tmp_path, starts), "here").start("x", Sampling(), 3)
    at_once = "    def __post_init__(self):\n        self._beta = self.first\n    def beta(self, step, state):\n        return 1.0\n"
    with pytest.raises(RecipeError, match=r"here: Mine writes to self\._beta: .*object\.__setattr__\(self, '_beta', \.\.\.\)"):
        nodes.build_part("coefficient", plugin(tmp_path, at_once), "here")


def test_a_dataclass_that_can_be_written_to_is_refused(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Mine:\n    def beta(self, step, state):\n        return 1.0\n"
    )
    with pytest.raises(RecipeError, match=r"write @dataclass\(frozen=True\), or leave the line out"):
        nodes.build_part("coefficient", f"{tmp_path}/mine.py:Mine", "here")
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text().replace("@dataclass", "@dataclass(frozen=True)"))
    assert nodes.build_part("coefficient", f"{tmp_path}/mine.py:Mine", "here").beta(0, {}) == 1.0


def test_a_start_that_returns_nothing_is_told_what_to_return(models: Path, tmp_path: Path):
    body = "    def start(self, policy):\n        pass\n"
    changed = {"regularizers": {"kl": {"coefficient": 0.1, "reference": plugin(tmp_path, body)}}}
    with pytest.raises(UserError, match=r"Mine\.start must return an object that derives from align\.references\.RunningReference, and"):
        Learner(recipes.build(node(models, **changed)), str(models / "policy"))
    built = recipes.build(node(models, engine=plugin(tmp_path, "    def start(self, *model):\n        pass\n")))
    with pytest.raises(UserError, match=r"Mine\.start must return an object that derives from align\.engines\.RunningEngine, and"):
        LocalWorkers(built, str(models / "policy"), 3, learns=False)


# State, saved and restored


def test_the_state_is_json_and_comes_back(models: Path):
    built = recipes.build(node(models))
    state, other = RunState(built), RunState(built)
    state.step, state.before, state.coefficients["kl"] = 2, {"x": 1.0}, {"beta": 0.3}
    other.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert other.state_dict() == state.state_dict() and other.betas(5) == {"kl": 0.3}
    assert RunState(built).betas(0) == {"kl": 0.1}


@pytest.mark.parametrize(
    ("coefficients", "says"),
    [
        ({}, "the checkpoint has the regularizers none, the recipe has kl"),
        ({"kl": {"log_beta": 1.0}}, r"regularizers\.kl\.coefficient: the checkpoint is of another one, whose state has no beta"),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused(models: Path, coefficients: dict, says: str):
    with pytest.raises(UserError, match=says):
        RunState(recipes.build(node(models))).load_state_dict({"step": 1, "before": {}, "coefficients": coefficients})


def test_what_changes_nothing_that_is_learned_says_so_itself(models: Path, tmp_path: Path):
    whole = nodes.resolved(recipes.build(node(models)))
    assert whole.keys() - nodes.learned_from(schema.Recipe, whole).keys() == {
        "steps",
        "evaluation",
        "checkpoint",
        "samples",
        "writers",
        "workers",
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(whole))
    other = nodes.resolved(recipes.build(node(models, steps=9, evaluation={"every": -1}, workers={"backend": "ray", "reward": 2})))
    assert changes(tmp_path, other) == []
    other["optimizer"]["lr"] = 0.5
    assert changes(tmp_path, other) == ["optimizer.lr: 0.01 -> 0.5"]


# The initial policy and the hashes


@pytest.mark.parametrize(("reference", "lora", "loads"), [("ema", 0, 1), ("frozen", 0, 0), ("ema", 4, 0)])
def test_the_initial_policy_is_loaded_once_at_most(models: Path, monkeypatch, reference: str, lora: int, loads: int):
    """And the divergence from it is, bit for bit, that from a model which is loaded for it."""
    built = recipes.build(
        node(
            models,
            model={"path": str(models / "policy"), "lora": {"rank": lora} if lora else {}},
            regularizers={"kl": {"coefficient": 0.1, "reference": reference}},
        )
    )
    learner, loaded, initial = Learner(built, str(models / "policy")), [], Policy.initial
    monkeypatch.setattr(Policy, "initial", lambda policy: loaded.append(1) or initial(policy))
    batch = moved(learner)
    found = [learner.exact_kl(batch) for _ in range(3)]
    assert len(loaded) == loads and found[0] == found[1] == found[2] and found[0].mean > 1e-3
    fresh = initial(learner.policy)
    monkeypatch.setattr(type(learner.initial), "at_hand", lambda self: given(fresh))
    assert learner.exact_kl(batch) == found[0]


@contextmanager
def given(policy: Policy) -> Iterator[tuple[Policy, Any]]:
    yield policy, OWN


def moved(learner: Learner) -> TokenBatch:
    """A batch of answers, for a policy that is away from where it began."""
    with torch.no_grad():
        for _, p in learner.policy.trained():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return pack(groups(0), None)


def test_a_reference_is_read_once_a_version(models: Path, tmp_path: Path, monkeypatch):
    """However often it is saved and described; a restart reads it again, so that a folder that has changed is found."""
    regularizers = {
        name: {"coefficient": 0.1, "reference": reference, "estimator": estimator}
        for name, reference, estimator in (
            ("a", "frozen", "exact"),
            ("b", {"name": "ema", "every": 2}, "exact"),
            ("c", "frozen", "sampled"),
        )
    }
    built = recipes.build(node(models, regularizers=regularizers))
    learner, hashed, content_hash = Learner(built, str(models / "policy")), [], Policy.content_hash
    monkeypatch.setattr(Policy, "content_hash", lambda policy, *values: hashed.append(1) or content_hash(policy, *values))
    for step in range(3):
        learner.save(str(tmp_path / str(step)))
        described = learner.reference_info()
    assert len(hashed) == 2, "two references for three regularizers"
    learner.references["b"].after_step(2)
    assert learner.reference_info()["b"]["version"] == 1 and len(hashed) == 3
    assert described["a"] == learner.reference_info()["a"]
    again = Learner(built, str(models / "policy"))
    hashed.clear()
    again.load(str(tmp_path / "0"))
    assert len(hashed) == 2 and again.reference_info() == described
