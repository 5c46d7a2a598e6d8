"""Who gets which GPU of a cluster, and who sees none. The cluster declares two; there need be none, for nothing computes on them."""

import os
from pathlib import Path

import pytest
import ray
from helpers.models import tiny_model
from helpers.paths import PLUGINS

from align.config import recipes
from align.config.schema import Recipe
from align.errors import UserError
from align.workers import cluster, open_workers


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", autouse=True)
def two_gpus():
    ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


def built(model: Path, **workers) -> Recipe:
    return recipes.build(
        {
            "steps": 1,
            "task": "countdown",
            "algorithm": "grpo",
            "reward": "countdown_exact",
            "engine": f"{PLUGINS}/unreliable.py:Mortal",  # which starts soon
            "model": {"path": str(model)},
            "batch": {"prompts": 6, "samples": 2},
            "sampling": {"max_tokens": 4},
            "workers": {"cpus": 0.1, **workers},
        }
    )


ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def environments(model: Path, **workers) -> dict[str, list[tuple[str | None, ...]]]:
    """CUDA_VISIBLE_DEVICES and the allocator's two variables of each actor, by role."""
    names = ("CUDA_VISIBLE_DEVICES", *ALLOCATOR)
    opened = open_workers(built(model, **workers), str(model), 3)
    try:
        assert opened.learner_on_gpu is (workers.get("learner_gpus") != 0)
        actors = {"learner": [opened.learner_actor], "rollout": opened.rollouts.actors, "reward": opened.rewards.actors}
        return {
            role: ray.get([a.__ray_call__.remote(lambda self: tuple(os.environ.get(name) for name in names)) for a in some])
            for role, some in actors.items()
        }
    finally:
        opened.close()


@pytest.fixture
def no_allocator(monkeypatch):
    for name in ALLOCATOR:
        monkeypatch.delenv(name, raising=False)


def test_each_process_has_a_gpu_of_its_own_and_an_allocator_that_does_not_fragment(model: Path, no_allocator):
    seen = environments(model)
    (learner,), (rollout,) = seen["learner"], seen["rollout"]
    assert sorted([learner[0], rollout[0]]) == ["0", "1"] and learner[1:] == rollout[1:] == ("expandable_segments:True", None)
    assert seen["reward"] == [("", None, None)]


def test_zero_hides_the_gpus_and_the_others_share_theirs(model: Path, no_allocator):
    seen = environments(model, learner_gpus=0, rollout_gpus=0.5, rollout=3)
    assert seen["learner"] == [("", None, None)]
    assert sorted(v[0] for v in seen["rollout"]) in (["0", "0", "1"], ["0", "1", "1"])


def test_more_processes_than_gpus_are_told_before_any_starts(model: Path):
    with pytest.raises(
        UserError,
        match=r"^wanted 3 GPUs \(learner 1 x 1, rollout 2 x 1\), the cluster has 2; lower workers\.rollout; or "
        r"set workers\.learner_gpus and workers\.rollout_gpus, to 0\.5 to share GPUs or to 0 for the CPU",
    ):
        open_workers(built(model, rollout=2), str(model), 3)


@pytest.mark.parametrize("name", ALLOCATOR)
def test_an_allocator_that_the_user_has_set_stays(monkeypatch, no_allocator, name: str):
    assert cluster.allocator({}) == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    assert cluster.allocator({name: "backend:native"}) == {}
    monkeypatch.setenv(name, "backend:native")
    assert cluster.allocator({}) == {}
