"""The twin without Ray, and what both twins share: how work is cut, what a cluster must have."""

import os
import pickle
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from helpers.models import tiny_model
from helpers.paths import PLUGINS

from align.config import recipes
from align.engines import Sampling
from align.engines.transformers import Transformers
from align.engines.vllm import Vllm
from align.errors import RecipeError, UserError
from align.types import Episode, Group, Prompt
from align.workers import open_workers
from align.workers.local import LocalWorkers
from align.workers.resources import Need, needs, remedy, too_busy, too_large
from align.workers.shards import generate, group_chunks, groups_in_order, idle_note, prompt_seeds, units

PLUGIN = PLUGINS / "unreliable.py"
PROMPTS = [Prompt(id=str(i), text="1", token_ids=(3 + i, 4, 5), fields={"do": do}) for i, do in enumerate(["", "raise", "parts", "hang"])]


def node(folder: Path | str, **changes) -> dict:
    return {
        "steps": 2,
        "task": "countdown",
        "algorithm": "grpo",
        "reward": f"{PLUGIN}:Unreliable",
        "engine": f"{PLUGIN}:Mortal",
        "model": {"path": str(folder)},
        "batch": {"prompts": 4, "samples": 2},
        "sampling": {"max_tokens": 6},
        "workers": {"backend": "local"},
        "reward_limits": {"seconds": 0.2},
    } | changes


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def workers(model: Path, monkeypatch):
    monkeypatch.setenv("ALIGN_TEST_MARK", "not yet")
    built = open_workers(recipes.build(node(model)), str(model), 3)
    yield built
    built.close()


def ids(groups: list[Group]) -> list[list[int]]:
    return [e.trained_ids.tolist() for g in groups for e in g.episodes]


def test_generation_keeps_the_prompts_order_and_follows_the_seed(workers):
    groups = workers.generate(PROMPTS, 2, seed=7)
    assert [g.prompt.id for g in groups] == ["0", "1", "2", "3"] and [len(g.episodes) for g in groups] == [2] * 4
    assert ids(workers.generate(PROMPTS, 2, seed=7)) == ids(groups)
    assert ids(workers.generate(PROMPTS, 2, seed=8)) != ids(groups)


def test_closing_twice_closes_the_engine_once(model: Path, monkeypatch: pytest.MonkeyPatch):
    opened = open_workers(recipes.build(node(model)), str(model), 3, learns=False)
    closed = []
    monkeypatch.setattr(type(opened.engine), "close", lambda self: closed.append(self))
    opened.close()
    opened.close()
    assert len(closed) == 1


def test_rewards_are_time_limited_and_in_order(workers):
    groups = workers.generate(PROMPTS, 2, seed=7)
    rewards = workers.compute_rewards(groups)
    lengths = [len(e.text) for g in groups for e in g.episodes]
    expected = [*lengths[:2], np.nan, np.nan, lengths[4] / 2, lengths[5] / 2, np.nan, np.nan]
    np.testing.assert_array_equal(rewards.values, np.array(expected, np.float32))
    np.testing.assert_array_equal(rewards.parts["length"][4:6], np.array(lengths[4:6], np.float32))
    assert rewards.failed == 4
    assert rewards.first_failure.startswith("prompt 1: KeyError: 'no such answer") and f"{PLUGIN}:" in rewards.first_failure


def test_publishing_gives_the_engine_the_learners_weights(workers):
    before = workers.generate(PROMPTS, 2, seed=7)
    for _, p in workers.learner.policy.trained():
        p.data.mul_(-1)
    unpublished = workers.generate(PROMPTS, 2, seed=7)
    told = workers.publish(3)
    after = workers.generate(PROMPTS, 2, seed=7)
    assert ids(unpublished) == ids(before) != ids(after)
    assert {v for g in after for e in g.episodes for v in e.versions.tolist()} == {3}
    assert told["sync/bytes"] == workers.learner.weights().buffer.nbytes and told["sync/seconds"] > 0


def test_the_engines_environment_is_set(workers):
    assert isinstance(workers, LocalWorkers) and os.environ["ALIGN_TEST_MARK"] == "seen"


def test_whether_the_learner_has_a_gpu_is_seen_on_it(workers):
    assert workers.learner_on_gpu is (workers.learner.policy.device.type == "cuda")


def test_prompts_need_not_divide_over_the_rollout_workers():
    assert recipes.build(node("m", workers={"rollout": 3})).workers.rollout == 3


def test_an_address_without_ray_is_refused(model: Path):
    with pytest.raises(UserError, match="backend: local"):
        open_workers(recipes.build(node(model)), str(model), 3, address="auto")


def test_a_recipe_error_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(RecipeError("engine.device", "is not there")))
    assert (type(error), str(error), error.where) == (RecipeError, "engine.device: is not there", "engine.device")


@pytest.mark.parametrize(("count", "workers", "sizes"), [(8, 2, [4, 4]), (7, 3, [2, 2, 3]), (2, 4, [1, 1]), (5, 1, [5]), (0, 3, [])])
def test_prompts_of_an_engine_that_makes_its_own_batches_are_shared_out_evenly(count: int, workers: int, sizes: list[int]):
    prompts = [Prompt(id=str(i), text="", token_ids=(1,)) for i in range(count)]
    cut = units(Vllm(), prompts, 2, 5, workers)
    assert [len(unit.prompts) for unit in cut] == sizes
    assert list(chain.from_iterable(unit.prompts for unit in cut)) == prompts
    assert list(chain.from_iterable(unit.seeds for unit in cut)) == prompt_seeds(count, 5)


def test_units_of_the_transformers_engine_are_full_alike_and_the_same_for_any_number_of_workers():
    prompts = [Prompt(id=str(i), text="", token_ids=(1,) * (3 - i % 3)) for i in range(10)]
    cut = units(Transformers(max_batch=8), prompts, 2, 5, 1)
    assert cut == units(Transformers(max_batch=8), prompts, 2, 5, 3)
    assert [list(unit.places) for unit in cut] == [[2, 5, 8, 1], [4, 7, 0], [3, 6, 9]]
    assert all(list(unit.prompts) == [prompts[i] for i in unit.places] for unit in cut)
    assert units(Transformers(max_batch=1), prompts[:2], 2, 5, 1)[1].prompts == prompts[:1]
    assert units(Transformers(), [], 2, 5, 3) == []


def test_a_seed_is_of_the_step_and_the_place():
    seeds = prompt_seeds(1000, 5)
    assert len({*seeds, *prompt_seeds(1000, 6)}) == 2000 and all(0 <= s < 2**62 for s in seeds)
    assert prompt_seeds(10, 5) == seeds[:10]


def bits(groups: list[Group]) -> list[tuple]:
    return [(g.prompt.id, e.trained_ids.tobytes(), e.sampler_logp.tobytes(), e.text, e.finished) for g in groups for e in g.episodes]


@pytest.mark.parametrize("max_batch", [4, 6, 512])
def test_one_two_and_three_processes_generate_the_same_bits(model: Path, max_batch: int):
    """The units dealt over engines of their own, each of which has drawn other units before; one prompt comes twice, in two units."""
    random = np.random.default_rng(0)
    asked = [Prompt(id=str(i), text="", token_ids=tuple(random.integers(3, 13, 3 + i % 4).tolist())) for i in range(7)] * 2
    part = Transformers(max_batch=max_batch)
    engines = [part.start(str(model), Sampling(max_tokens=12), 8) for _ in range(3)]
    found = []
    for workers in (1, 2, 3):
        cut = units(part, asked, 2, 7, workers)
        found.append(bits(groups_in_order(cut, [engines[i % workers].generate(u.prompts, 2, u.seeds) for i, u in enumerate(cut)])))
    assert found[0] == found[1] == found[2] == bits(generate(part, engines[0], asked, 2, 7))
    assert [name for name, *_ in found[0][::2]] == [p.id for p in asked]
    assert found[0][:14] != found[0][14:]


@pytest.mark.parametrize(
    ("max_batch", "workers", "told"),
    [(8, 2, None), (8, 3, "in 2 units, so 1 of 3 rollout workers"), (512, 2, "in 1 unit, so 1 of 2 rollout workers")],
)
def test_workers_without_a_unit_are_reported(max_batch: int, workers: int, told: str | None):
    found = idle_note(Transformers(max_batch=max_batch), prompts=8, samples=2, workers=workers)
    assert found is None if told is None else told in found and "engine.max_batch" in found
    assert idle_note(Vllm(), prompts=8, samples=2, workers=3) is None


@pytest.mark.parametrize(
    ("sizes", "answers", "chunks"), [([2, 2, 2], 4, [[2, 2], [2]]), ([5, 1, 1], 4, [[5], [1, 1]]), ([1, 5], 4, [[1], [5]]), ([], 4, [])]
)
def test_chunks_hold_whole_groups(sizes: list[int], answers: int, chunks: list[list[int]]):
    episode = Episode.single_turn(np.zeros(1, np.int32), "")
    groups = [Group(prompt=Prompt(id=str(i), text="", token_ids=(1,)), episodes=(episode,) * n) for i, n in enumerate(sizes)]
    cut = list(group_chunks(groups, answers))
    assert [[len(g.episodes) for g in chunk] for chunk in cut] == chunks
    assert list(chain.from_iterable(cut)) == groups


def test_a_recipe_needs_its_actors():
    workers = {"rollout": 2, "reward": 3, "cpus": 0.5, "learner_gpus": 1, "rollout_gpus": 0.5}
    learner, rollout = Need("learner", 1, 0.5, 1.0), Need("rollout", 2, 0.5, 0.5)
    assert needs(recipes.build(node("m", workers=workers)), there=0) == [learner, rollout, Need("reward", 3, 0.5, 0.0)]
    demonstrations = {k: v for k, v in node("m", algorithm="sft", workers=workers, batch={}).items() if not k.startswith("reward")}
    assert needs(recipes.build(demonstrations), there=8) == [learner, rollout]
    assert needs(recipes.build(demonstrations), there=8, learns=False) == [rollout]


@pytest.mark.parametrize(
    ("there", "stated", "model_device", "engine_device", "gpus"),
    [
        (8, {}, "auto", "auto", [1, 1]),
        (0, {}, "auto", "auto", [0, 0]),
        (8, {}, "cpu", "auto", [0, 1]),
        (8, {}, "auto", "cpu", [1, 0]),
        (0, {}, "cuda", "cuda:0", [1, 1]),
        (8, {"learner_gpus": 0}, "auto", "auto", [0, 1]),
        (8, {"rollout_gpus": 0}, "auto", "auto", [1, 0]),
        (8, {"learner_gpus": 0.25, "rollout_gpus": 2}, "auto", "auto", [0.25, 2]),
    ],
)
def test_each_process_takes_a_gpu_where_there_is_one(there, stated, model_device, engine_device, gpus):
    changes = {
        "workers": stated,
        "model": {"path": "m", "device": model_device},
        "engine": {"name": "transformers", "device": engine_device},
    }
    assert [need.gpus for need in needs(recipes.build(node("m", **changes)), there)] == [*gpus, 0]


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([{"CPU": 2.0, "GPU": 3.0}], None),
        ([{"CPU": 1.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}], None),
        ([{"CPU": 1.5, "GPU": 3.0}], "wanted 2 CPUs (learner 1 x 0.5, rollout 2 x 0.5, reward 1 x 0.5), the cluster has 1.5"),
        ([{"CPU": 8.0}], "wanted 3 GPUs (learner 1 x 1, rollout 2 x 1), the cluster has 0"),
        ([{"CPU": 8.0}, {"GPU": 8.0}], "a learner actor wants 0.5 CPUs and 1 GPU on one node, and no node has both"),
    ],
)
def test_a_cluster_that_is_too_small_is_told_in_figures(nodes: list[dict], reason: str | None):
    wanted = [Need("learner", 1, 0.5, 1.0), Need("rollout", 2, 0.5, 1.0), Need("reward", 1, 0.5, 0.0)]
    assert too_large(wanted, nodes) == reason


@pytest.mark.parametrize(("rollouts", "gpus", "share"), [(1, 1, "0.5"), (2, 2, "0.5"), (2, 1, "0.33"), (6, 2, "0.25")])
def test_a_share_of_the_gpus_is_proposed_that_every_process_gets(rollouts: int, gpus: int, share: str):
    wanted = [Need("learner", 1, 0.5, 1.0), Need("rollout", rollouts, 0.5, 1.0), Need("reward", 1, 0.5, 0.0)]
    assert too_large(wanted, [{"CPU": 8.0, "GPU": float(gpus)}]) is not None
    told = remedy(wanted, {"CPU": 8.0, "GPU": float(gpus)})
    assert f"set workers.learner_gpus and workers.rollout_gpus, to {share} to share GPUs or to 0 for the CPU" in told
    assert ("lower workers.rollout" in told) == (rollouts > 1) and "model.device: cpu" in told and "--address" in told
    on_one = int(1 / float(share))
    assert on_one * gpus >= rollouts + 1


def test_the_remedy_is_for_what_is_short():
    wanted = [Need("learner", 1, 0.5, 1.0), Need("rollout", 2, 0.5, 1.0)]
    assert remedy(wanted, {"CPU": 1.0, "GPU": 3.0}).startswith("lower workers.rollout, workers.reward or workers.cpus, or")
    assert "to share GPUs" not in remedy(wanted, {"CPU": 8.0}) and "to 0 for the CPU" in remedy(wanted, {"CPU": 8.0})


def test_only_who_wants_a_gpu_is_in_the_remedy():
    learner = [Need("learner", 1, 0.5, 1.0), Need("rollout", 4, 0.5, 0.0)]
    assert too_large(learner, [{"CPU": 8.0}]) == "wanted 1 GPU (learner 1 x 1), the cluster has 0"
    assert remedy(learner, {"CPU": 8.0}).startswith("set workers.learner_gpus, to 0 for the CPU")
    scored = [Need("learner", 1, 0.5, 0.0), Need("reward", 2, 0.5, 1.0)]
    assert remedy(scored, {"CPU": 8.0, "GPU": 1.0}).startswith("set workers.reward_gpus, to 0.5 to share GPUs or to 0")


def test_a_cluster_that_is_busy_is_told_in_figures():
    tenths = [Need("rollout", 3, 0.1, 0.0)]
    assert too_busy(tenths, {"CPU": 0.3}) is None
    assert too_busy(tenths, {"CPU": 0.2}) == "wanted 0.3 CPUs (rollout 3 x 0.1), the cluster has free 0.2"
