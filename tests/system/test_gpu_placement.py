"""Who gets which GPU of a cluster, and who sees none. The cluster declares two; there need be none, for nothing computes on them."""

import os
from pathlib import Path

import pytest
import ray
from helpers.models import tiny_model

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
            "model": {"path": str(model)},
            "batch": {"prompts": 6, "samples": 2},
            "sampling": {"max_tokens": 4},
            "workers": {"cpus": 0.1, **workers},
        }
    )


def visible(model: Path, **workers) -> dict[str, list[str | None]]:
    """CUDA_VISIBLE_DEVICES of each actor, by role."""
    opened = open_workers(built(model, **workers), str(model), 3)
    try:
        assert opened.learner_on_gpu is (workers.get("learner_gpus") != 0)
        actors = {"learner": [opened.learner_actor], "rollout": opened.rollouts.actors, "reward": opened.rewards.actors}
        return {
            role: ray.get([a.__ray_call__.remote(lambda self: os.environ.get("CUDA_VISIBLE_DEVICES")) for a in some])
            for role, some in actors.items()
        }
    finally:
        opened.close()


def test_each_process_has_a_gpu_of_its_own(model: Path):
    seen = visible(model)
    assert sorted(seen["learner"] + seen["rollout"]) == ["0", "1"] and seen["reward"] == [""]


def test_zero_hides_the_gpus_and_the_others_share_theirs(model: Path):
    seen = visible(model, learner_gpus=0, rollout_gpus=0.5, rollout=3)
    assert seen["learner"] == [""] and sorted(seen["rollout"]) in (["0", "0", "1"], ["0", "1", "1"])


def test_more_processes_than_gpus_are_told_before_any_starts(model: Path):
    with pytest.raises(
        UserError,
        match=r"^wanted 3 GPUs \(learner 1 x 1, rollout 2 x 1\), the cluster has 2; lower workers\.rollout; or "
        r"set workers\.learner_gpus and workers\.rollout_gpus, to 0\.5 to share GPUs or to 0 for the CPU",
    ):
        open_workers(built(model, rollout=2), str(model), 3)


def test_who_has_a_gpu_has_an_allocator_that_does_not_fragment(model: Path, monkeypatch):
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    opened = open_workers(built(model, rollout_gpus=0), str(model), 3)
    actors = [opened.learner_actor, opened.rollouts.actors[0], opened.rewards.actors[0]]
    seen = ray.get([a.__ray_call__.remote(lambda self: [os.environ.get(name) for name in names]) for a in actors])
    opened.close()
    assert seen == [["expandable_segments:True", None], [None, None], [None, None]]


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_an_allocator_that_the_user_has_set_stays(monkeypatch, name: str):
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    assert cluster.allocator({}) == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    assert cluster.allocator({name: "backend:native"}) == {}
    monkeypatch.setenv(name, "backend:native")
    assert cluster.allocator({}) == {}
