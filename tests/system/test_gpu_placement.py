"""Who gets which GPU of a cluster, and who sees none. The cluster declares two; there need be none, for nothing computes on them."""

import os
from pathlib import Path

import pytest
import ray
from models import tiny_model

from align import recipe
from align.errors import UserError
from align.recipe import Recipe
from align.workers import open_workers


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", autouse=True)
def two_gpus():
    ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


def built(model: Path, **workers) -> Recipe:
    return recipe.build({
        "steps": 1, "task": "countdown", "algorithm": "grpo", "reward": "exact", "model": {"path": str(model)},
        "batch": {"prompts": 6, "samples": 2}, "sampling": {"max_tokens": 4}, "workers": {"cpus": 0.1, **workers}})


def visible(model: Path, **workers) -> dict[str, list[str | None]]:
    """CUDA_VISIBLE_DEVICES of each actor, by role."""
    opened = open_workers(built(model, **workers), str(model), 3)
    try:
        actors = {"learner": [opened.learner_actor], "rollout": opened.rollouts.actors, "reward": opened.rewards.actors}
        return {role: ray.get([a.__ray_call__.remote(lambda self: os.environ.get("CUDA_VISIBLE_DEVICES")) for a in some])
                for role, some in actors.items()}
    finally:
        opened.close()


def test_each_process_has_a_gpu_of_its_own(model: Path):
    seen = visible(model)
    assert sorted(seen["learner"] + seen["rollout"]) == ["0", "1"] and seen["reward"] == [""]


def test_zero_hides_the_gpus_and_the_others_share_theirs(model: Path):
    seen = visible(model, learner_gpus=0, rollout_gpus=0.5, rollout=3)
    assert seen["learner"] == [""] and sorted(seen["rollout"]) in (["0", "0", "1"], ["0", "1", "1"])


def test_more_processes_than_gpus_are_told_before_any_starts(model: Path):
    with pytest.raises(UserError, match=r"^wanted 3 GPUs \(learner 1 x 1, rollout 2 x 1\), the cluster has 2; lower workers\.rollout; or "
                                        r"set workers\.learner_gpus and workers\.rollout_gpus, to 0\.5 to share GPUs or to 0 for the CPU"):
        open_workers(built(model, rollout=2), str(model), 3)
