"""A learned reward in actors of its own: the scores of one process, each actor asked once, its errors told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import ray
from helpers.models import tiny_model, tiny_scorer

from align.config import recipes, schema
from align.config.schema import Recipe
from align.errors import UserError
from align.types import Episode, Group, Prompt
from align.workers import open_workers
from align.workers.reward_runner import run_rewards


def built(folder: Path, scorer: str, **workers) -> Recipe:
    return recipes.build(
        {
            "steps": 1,
            "task": "countdown",
            "algorithm": "grpo",
            "reward": {"name": "learned", "path": str(folder / scorer), "gold": "countdown_exact"},
            "engine": {"name": "scripted", "answers": ["1"]},
            "model": {"path": str(folder / "policy")},
            "batch": {"prompts": 4, "samples": 2},
            "workers": {"cpus": 0.1, **workers},
        }
    )


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Both tests' workers join it: its start takes longer than they do."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny_model(root / "policy")
    tiny_scorer(root / "scorer")
    return root


def test_two_actors_score_as_one_process_does_and_are_asked_once_each(folder):
    groups = [
        Group(
            prompt=Prompt(
                id=str(i), text=f"{i},2={i + 2}:", token_ids=(1,), fields={"skill": "countdown", "numbers": [i, 2], "target": i + 2}
            ),
            episodes=tuple(Episode.single_turn(np.zeros(1, np.int32), text) for text in (f"{i}+2", "7" * i, "1")),
        )
        for i in range(1, 6)
    ]
    alone = built(folder, "scorer", backend="local").reward.start()
    expected = run_rewards(alone, schema.RewardLimits(), groups)
    workers = open_workers(built(folder, "scorer", backend="ray", reward=2), str(folder / "policy"), 8)
    calls, run = [], workers.rewards.run
    workers.rewards.run = lambda method, chunks, **options: calls.append([len(c[0]) for c in chunks]) or run(method, chunks, **options)
    try:
        found = workers.compute_rewards(groups)
    finally:
        workers.close()
    assert calls == [[2, 3]] and expected.failed == found.failed == 0
    assert np.allclose(found.values, expected.values, atol=1e-5) and found.values.std() > 0.1
    assert np.array_equal(found.parts["gold"], [1.0, 0.0, 0.0] * 5) and np.array_equal(found.parts["learned"], found.values)


def test_a_folder_without_a_scorer_is_told_by_the_driver(folder):
    with pytest.raises(UserError, match=r"reward learned: path: .*policy holds Qwen2ForCausalLM and no reward model"):
        open_workers(built(folder, "policy", backend="ray"), str(folder / "policy"), 8)
