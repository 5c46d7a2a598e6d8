"""The twin on Ray, on a private local cluster: the same answers as in one process, and what survives the death of which actor."""

import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from helpers.models import tiny_model
from helpers.paths import PLUGINS
from helpers.plugins.several import write

from align.config import recipes
from align.config.nodes import resolved
from align.config.schema import Recipe
from align.errors import RunStopped, UserError
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.run.state import RunState
from align.types import Group, Prompt
from align.workers import cluster, open_workers
from align.workers.local import LocalWorkers

PLUGIN = PLUGINS / "unreliable.py"


def prompts(*fields: dict) -> list[Prompt]:
    return [Prompt(id=str(i), text="1", token_ids=(3 + i, 4, 5), fields=f) for i, f in enumerate(fields)]


PLAIN = prompts({}, {}, {}, {})
REAL = {"name": "transformers", "max_batch": 4}
"""An engine whose batches decide its last bits."""


def built(model: Path, plugin: Path, engine: dict | None = None, **workers) -> Recipe:
    """With the plugin's engine, which starts soon."""
    return recipes.build(
        {
            "steps": 2,
            "task": "countdown",
            "algorithm": "grpo",
            "reward": f"{plugin}:Unreliable",
            "engine": engine or f"{plugin}:Mortal",
            "model": {"path": str(model)},
            "batch": {"prompts": 4, "samples": 2},
            "sampling": {"max_tokens": 6},
            "optimizer": {"lr": 1e-2},
            "regularizers": {
                "kl": {"estimator": "exact", "coefficient": 0.1},
                "mine": {"divergence": f"{plugin}:Hellinger", "coefficient": 0.1},
            },
            "workers": {"cpus": 0.1, **workers},
            "reward_limits": {"seconds": 0.3},
        }
    )


def same(some: list[Group], others: list[Group]) -> bool:
    pairs = zip([e for g in some for e in g.episodes], [e for g in others for e in g.episodes], strict=True)
    return all(
        a.trained_ids.tolist() == b.trained_ids.tolist()
        and a.sampler_logp.tobytes() == b.sampler_logp.tobytes()
        and a.versions.tolist() == b.versions.tolist()
        and (a.text, a.finished) == (b.text, b.finished)
        for a, b in pairs
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def local(model: Path):
    workers = LocalWorkers(built(model, PLUGIN, backend="local"), str(model), 3)
    yield workers
    workers.close()


@pytest.fixture(scope="module")
def workers(model: Path, tmp_path_factory):
    """Two rollout actors on a cluster of their own. The plugin's file is gone before they start: they load its text."""
    plugin = tmp_path_factory.mktemp("plugin") / "mine.py"
    shutil.copy(PLUGIN, plugin)
    wanted = built(model, plugin, backend="ray", rollout=2)
    plugin.unlink()
    opened = open_workers(wanted, str(model), 3)
    yield opened
    opened.close()
    opened.close()
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def twins(workers, model: Path):
    """In one process, and on Ray with one actor a role; they join the cluster of `workers`."""
    opened = [open_workers(built(model, PLUGIN, REAL, backend=backend), str(model), 3) for backend in ("local", "ray")]
    yield opened
    for one in opened:
        one.close()
    assert ray.is_initialized()  # the cluster was there before


def test_one_and_two_workers_and_one_process_draw_the_same_bits(workers, twins, model: Path):
    """Five units of prompts of three lengths, among them one prompt twice; evaluation and pairs are drawn by the same call."""
    asked = [Prompt(id=str(i % 8), text="1", token_ids=(3 + i % 8, 4, 5)[: 1 + i % 3]) for i in range(9)]
    two, (local, one) = open_workers(built(model, PLUGIN, REAL, backend="ray", rollout=2), str(model), 3, None, False), twins
    for chosen in (asked, asked[:1]):
        expected = local.generate(chosen, 2, seed=7)
        assert same(two.generate(chosen, 2, seed=7), expected) and same(one.generate(chosen, 2, seed=7), expected)
    two.close()


def test_actors_have_their_environment(workers):
    actor = workers.rollouts.actors[0]
    mark, threads = ray.get(actor.__ray_call__.remote(lambda self: (os.environ["ALIGN_TEST_MARK"], torch.get_num_threads())))
    assert (mark, threads) == ("seen", 1)


def test_an_engine_that_dies_loses_nothing(workers, local, tmp_path):
    """Killed in the middle of its call, first one, then both: the shards are drawn again, by the weights of version 1."""
    local.publish(1)
    workers.publish(1)
    for victims in ((0,), (1, 3)):
        orders = [tmp_path / f"kill{i}" for i in range(4)]
        for i in victims:
            orders[i].touch()
        chosen = prompts(*({"kill_once": str(order)} for order in orders))
        groups = workers.generate(chosen, 2, seed=8)
        assert not any(order.exists() for order in orders)
        assert {v for g in groups for e in g.episodes for v in e.versions.tolist()} == {1}
        assert same(groups, local.generate(chosen, 2, 8))


def test_a_publish_reaches_an_engine_that_died_during_it(workers, local):
    ray.kill(workers.rollouts.actors[0], no_restart=False)
    told = workers.publish(2)
    assert told["sync/bytes"] == local.publish(2)["sync/bytes"]
    assert same(workers.generate(PLAIN, 2, seed=9), local.generate(PLAIN, 2, 9))


def test_prompts_that_kill_every_engine_stop_the_run(workers, monkeypatch):
    monkeypatch.setattr(cluster, "ATTEMPTS", 2)
    with pytest.raises(RunStopped, match="2 rollout actors died one after the other over the same prompts"):
        workers.generate(prompts({"do": "kill always"}), 2, seed=1)


def test_engines_work_on_after_a_call_that_raised(workers, local):
    """One shard raises, the other is still being drawn."""
    for seed in (1, 2):
        with pytest.raises(UserError, match="no room for this prompt"):
            workers.generate(prompts({"do": "refuse"}, {}, {}, {}), 2, seed)
    assert same(workers.generate(PLAIN, 2, seed=3), local.generate(PLAIN, 2, 3))


def test_rewards_that_cannot_be_interrupted_cost_their_own_chunk(workers, local, monkeypatch):
    monkeypatch.setattr(cluster, "CHUNK", 4)
    monkeypatch.setattr(cluster, "MARGIN", 1.0)
    chosen = prompts({}, {"do": "parts"}, {"do": "raise"}, {"do": "hang"}, {"do": "never return"}, {}, {"do": "crash"}, {}, {}, {})
    groups = local.generate(chosen, 2, 3)
    began = time.monotonic()
    rewards = workers.compute_rewards(groups)
    lengths = np.array([len(e.text) for g in groups for e in g.episodes], np.float32)
    lengths[2:4] /= 2
    lengths[4:16] = np.nan  # two answers a prompt, two prompts a chunk
    np.testing.assert_array_equal(rewards.values, lengths)
    assert rewards.failed == 12 and rewards.first_failure.startswith("prompt 2: KeyError")
    assert time.monotonic() - began < 200  # not the seconds of `start_timeout`, after which an actor is given up
    assert workers.compute_rewards(groups[8:]).failed == 0


def test_a_reward_process_that_dies_costs_no_answer(workers, local, tmp_path):
    order = tmp_path / "crash"
    chosen = prompts({}, {"crash_once": str(order)}, {})
    groups = local.generate(chosen, 2, 3)
    order.touch()
    rewards = workers.compute_rewards(groups)
    assert not order.exists() and rewards.failed == 0
    assert rewards.values.tolist() == [len(e.text) for g in groups for e in g.episodes]


def test_a_death_is_told_without_names_of_internals(workers, local):
    rewards = workers.compute_rewards(local.generate(prompts({"do": "crash"}), 2, 3))
    assert rewards.first_failure == "prompt 0: its process was killed from outside, often for lack of memory, or crashed"


def test_an_engine_that_hangs_is_restarted_and_its_stack_is_written(workers, local, tmp_path):
    order, file = tmp_path / "hang", tmp_path / "stacks"
    chosen = prompts({"hang_once": str(order)}, {}, {}, {})
    order.touch()

    def end():
        while order.exists() or len(workers.rollouts.busy) > 1:  # the other actor's calls end
            time.sleep(0.05)
        workers.write_stacks(file)
        told.append(workers.end_hanging("`generate` hangs"))

    told, watching = [], threading.Thread(target=end)
    watching.start()
    groups = workers.generate(chosen, 2, seed=8)
    watching.join()
    assert same(groups, local.generate(chosen, 2, 8)) and told[0].startswith("1 rollout processes are killed")
    assert "== rollout-" in file.read_text() and ", line " in file.read_text() and " in generate" in file.read_text()


def test_processes_tell_their_memory(workers, local):
    workers.compute_rewards(local.generate(PLAIN, 2, 3))  # those that a test before has ended are back then
    found = workers.memory()
    assert found.keys() == {"driver", "learner", "rollout", "reward"} and min(found.values()) > 1e7


def test_what_a_user_did_wrong_arrives_as_it_was(workers, tmp_path):
    with pytest.raises(UserError, match="is not a complete checkpoint") as error:
        workers.learner.load(str(tmp_path))
    assert type(error.value) is UserError and "ray" not in str(error.value).lower()


def test_a_model_that_a_node_cannot_read_is_told(workers, model: Path):
    with pytest.raises(UserError, match=r"the node [\d.]+ cannot read the model folder /nowhere/model: keep"):
        open_workers(built(model, PLUGIN, backend="ray"), "/nowhere/model", 3)


def test_a_cluster_that_is_too_small_is_told(workers, model: Path):
    with pytest.raises(UserError, match=r"^wanted 3000 CPUs \(learner 1 x 1000, rollout 1 x 1000, reward 1 x 1000\), the cluster has \d+"):
        open_workers(built(model, PLUGIN, backend="ray", cpus=1000), str(model), 3)


def test_who_only_generates_and_scores_starts_no_learner(workers, model: Path):
    local, without = (open_workers(built(model, PLUGIN, backend=backend), str(model), 3, None, False) for backend in ("local", "ray"))
    assert without.learner_actor is None and not hasattr(local, "learner")
    groups = without.generate(PLAIN, 2, seed=5)
    assert same(groups, local.generate(PLAIN, 2, seed=5))
    assert without.compute_rewards(groups).values.tobytes() == local.compute_rewards(groups).values.tobytes()
    without.close()


def test_a_plugin_of_several_files_needs_no_folder_on_the_workers(workers, model: Path, tmp_path):
    """A package and a file beside it, imported at the top and inside functions; what runs is what was read, not what an edit left."""
    write(
        tmp_path,
        pkg__init="from .engine import Own\ndef judge(response, *, factor: float = 1.0):\n    from . import late\n"
        "    return factor * late.length(response)\n",
        pkg__engine="from align.engines.transformers import RunningTransformers, Transformers\nclass Own(Transformers):\n"
        "    def start(self, *given):\n        return Running(self, *given)\n"
        "class Running(RunningTransformers):\n    def generate(self, *given):\n"
        "        from beside import checked\n        return checked(super().generate(*given))\n",
        pkg__late="def length(text):\n    return len(text)\n",
        beside="def checked(groups):\n    return groups\n",
    )
    wanted = built(model, PLUGIN, backend="ray")
    node = resolved(wanted) | {"engine": f"{tmp_path}/pkg:Own", "reward": {"name": f"{tmp_path}/pkg:judge", "factor": 2.0}}
    wanted = recipes.build(node)
    write(tmp_path, pkg__late="def length(text):\n    return 0\n")
    assert recipes.build(node).reward.score(PLAIN[0], "four") == 0
    shutil.rmtree(tmp_path / "pkg")
    opened = open_workers(wanted, str(model), 3, None, False)
    groups = opened.generate(PLAIN, 2, seed=5)
    rewards = opened.compute_rewards(groups)
    opened.close()
    assert rewards.values.tolist() == [2 * len(e.text) for g in groups for e in g.episodes] and rewards.failed == 0


def test_the_twins_go_through_a_step_alike_until_the_learner_dies(twins, tmp_path):
    """Generate, reward, score, update, publish, generate: equal to the last bit; then the learner is killed."""
    first, stats, second = zip(*(_step(twin) for twin in twins), strict=True)
    assert same(*first) and same(*second) and not same(first[0], second[0])
    assert stats[0] == stats[1] and stats[0]["loss/policy"].count > 0
    assert twins[0].learner.exchange.take() == twins[1].learner.exchange.take() != twins[0].learner.exchange.take()
    remote = twins[1].learner
    assert remote.version == 1
    remote.export(str(tmp_path / "model"))
    assert (tmp_path / "model" / "config.json").is_file()
    assert remote.weights().buffer.tobytes() == twins[0].learner.weights().buffer.tobytes()
    _stays_as_it_was(twins[1])
    ray.kill(twins[1].learner_actor)
    with pytest.raises(RunStopped, match=r"the learner's process died \(it was killed\)\. What it learned .* is lost$"):
        remote.save(str(tmp_path / "checkpoint"))


def _stays_as_it_was(twin) -> None:
    """A version that is held while the next one is packed, by the learner into the same memory."""
    held = twin.learner.weights()
    before = held.buffer.tobytes()
    ray.get(twin.learner_actor.__ray_call__.remote(lambda self: [p.data.mul_(-1) for _, p in self.learner.policy.trained()] and None))
    assert twin.learner.weights().buffer.tobytes() != before == held.buffer.tobytes()


def _step(twin):
    groups = twin.generate(PLAIN, 2, seed=5)
    rewards = twin.compute_rewards(groups)
    betas = RunState(twin.recipe).betas(0)
    batch = prepare_batch(twin.recipe, twin.learner.compute_logprobs(replace(pack(groups, rewards), betas=betas)))
    stats = twin.learner.update(batch, 0)
    twin.publish(1)
    return groups, stats, twin.generate(PLAIN, 2, seed=5)
