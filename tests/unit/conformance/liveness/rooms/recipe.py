from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import PLUGINS

from align.config import nodes, recipes
from align.config.schema import Recipe, RewardLimits
from align.rewards import Reward
from align.run.initial_policy import model_folder
from align.types import Episode, Group, Prompt
from align.workers.resources import needs
from align.workers.reward_runner import run_rewards
from liveness import Change
from liveness.nodes import filled, text
from liveness.runs import run

JUDGED = {
    "evaluation": {"every": 0, "problems": 1, "samples": 2},
    "task": {"name": "jsonl", "path": "{data}", "eval_path": "{held_out}"},
    "reward": "exact_match",
    "batch": {"prompts": 1, "samples": 2},
}
EVALUATED = {"evaluation": {"every": 0, "problems": 2, "samples": 2}}
LORA = {"model": {"path": "{model}", "lora": {"rank": 2}}}
EVERY_TURN = f"{PLUGINS}/turns.py:Every"
PLAYED = {"environment": EVERY_TURN, "episode": {"max_turns": 2}, "sampling": {"max_tokens": 12, "temperature": 9.0}, "steps": 1}
CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
}
CHANGES = {
    ("", "max_engine_gap"): Change(1e-12, stops=True),
    ("", "task"): Change({"name": "countdown", "size": 8, "seed": 1}),
    ("", "algorithm"): Change({"name": "grpo", "advantage": "group_centred"}),
    ("", "reward"): Change("countdown_loose"),
    ("", "curriculum"): Change("learnability"),
    ("", "engine"): Change({"name": "scripted", "answers": ["1+2"]}),
    ("", "regularizers"): Change({"kl": {"coefficient": 0.5}}),
    ("", "shapings"): Change({"long": {"name": "overlong", "limit": 6, "buffer": 5}}),
    ("", "writers"): Change({"board": "tensorboard"}),
    ("", "environment"): Change(EVERY_TURN, PLAYED | {"environment": None, "episode": {}}),
    ("episode", "max_turns"): Change(3, PLAYED),
    ("episode", "max_tokens"): Change(24, PLAYED | {"episode": {"max_turns": 3}}),
    ("episode", "seconds"): Change(
        0.02, PLAYED | {"environment": {"name": EVERY_TURN, "fails": "slow"}, "episode": {"max_turns": 2, "seconds": 9.0}}
    ),
    ("model", "path"): Change("{other}"),
    ("model", "revision"): Change("main", stops=True),
    ("model", "config"): Change(CONFIG, {"model": {"path": None, "config": CONFIG | {"hidden_size": 8}}}),
    ("model", "recipe"): Change("{data}2", {"model": {"path": None, "recipe": "{data}1"}}),
    ("model", "dtype"): Change("bfloat16", {"max_engine_gap": 9.0}),
    ("model.lora", "rank"): Change(2),
    ("model.lora", "alpha"): Change(64.0, LORA),
    ("model.lora", "dropout"): Change(0.5, LORA, stops=True),
    ("model.lora", "targets"): Change("q_proj,v_proj", LORA),
    ("batch", "prompts"): Change(2),
    ("batch", "refill"): Change(1),
    ("batch", "micro_tokens"): Change(32),
    ("batch", "head_elements"): Change(64),
    ("head", "backend"): Change("triton", stops=True),
    ("model", "attn_implementation"): Change("flash_attention_2", stops=True),
    ("model", "device"): Change("cuda", stops=True),
    ("model", "tf32"): Change(True, stops=True),
    ("optimizer", "betas"): Change([0.5, 0.99]),
    ("optimizer", "weight_decay"): Change(0.5),
    ("optimizer", "warmup_steps"): Change(2),
    ("optimizer", "schedule"): Change("linear"),
    ("optimizer", "final_fraction"): Change(0.25, {"optimizer": {"schedule": "linear", "lr": 1e-2}}),
    ("optimizer", "max_grad_norm"): Change(1e-3),
    ("workers", "backend"): Change("ray"),
    ("workers", "threads"): Change(2),
    ("workers", "learner_gpus"): Change(0.5, {"workers": {"backend": "ray"}}),
    ("workers", "rollout_gpus"): Change(0, {"workers": {"backend": "ray"}}),
    ("workers", "*"): Change(..., {"workers": {"backend": "ray"}}),
    ("reward_limits", "seconds"): Change(0.05, {"reward_limits": {"seconds": 0.02}}),
    ("reward_limits", "on_failure"): Change("score"),
    ("reward_limits", "failure_score"): Change(-1.0, {"reward_limits": {"seconds": 0.02, "on_failure": "score"}}),
    ("evaluation", "every"): Change(1, EVALUATED),
    ("evaluation", "correct"): Change(None, JUDGED),
    ("evaluation.sampling", "temperature"): Change(0.2, EVALUATED),
    ("evaluation.sampling", "top_p"): Change(0.3, EVALUATED),
    ("evaluation", "*"): Change(..., EVALUATED),
    ("samples", "every"): Change(1),
    ("samples", "prompts"): Change(1),
    ("samples", "printed"): Change(1),
    ("checkpoint", "every"): Change(1),
    ("checkpoint", "minutes"): Change(1e-9),
    ("checkpoint", "keep"): Change(1, {"checkpoint": {"every": 1}}),
}


def seen(place: str, field: str, node: dict, places: dict[str, str]) -> str:
    built = recipes.build(filled(node, places))
    if place == "workers":
        return text(workers(built)) if built.workers.backend == "ray" or field == "backend" else run(node, places)
    if place == "reward_limits":
        return text(limits(built.reward_limits))
    if (place, field) == ("model", "recipe"):
        return text(warm_start(built, Path(places["folder"])))
    return run(node, places)


class FakeActor:
    """Takes down what Ray is asked for."""

    def __init__(self, seen: list):
        self.seen = seen

    def options(self, **options) -> FakeActor:
        self.seen.append(options)
        return self

    def remote(self, *args) -> FakeActor:
        self.seen.append("one")
        return self


def workers(built: Recipe) -> Any:
    """What the processes of a run are asked for."""
    from align.workers import cluster, local, open_workers

    seen: list = [[dataclasses.asdict(n) for n in needs(built, there=8.0)]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local.LocalWorkers, "__init__", lambda self, *args: None)
        patch.setattr(cluster, "connect", lambda address: False)
        patch.setattr(cluster, "_check", lambda wanted: None)
        patch.setattr(cluster, "_gpus_of_cluster", lambda: 8.0)
        patch.setattr(cluster.RayWorkers, "_start", lambda self: None)
        for name in ("LearnerActor", "RolloutActor", "RewardActor"):
            patch.setattr(cluster, name, FakeActor(seen))
        made = open_workers(built, "model", 4)
    pools = [[p.role, len(p.actors), p.start_timeout] for p in made.pools] if isinstance(made, cluster.RayWorkers) else []
    return [type(made).__name__, seen, pools]


def limits(limits: RewardLimits) -> Any:
    """Of an answer that takes 0.03 seconds and one whose reward raises."""
    import time

    class Slow(Reward):
        def score(self, prompt: Prompt, response: str) -> float:
            time.sleep(0.03)
            return 1.0 / len(response)

    episodes = tuple(Episode.single_turn(torch.ones(1).int().numpy(), t) for t in ("1", ""))
    scored = run_rewards(Slow(), limits, [Group(prompt=Prompt(id="0", text="", token_ids=(1,)), episodes=episodes)])
    return [scored.values, scored.failed]


def warm_start(built: Recipe, folder: Path) -> Any:
    """The recipe that is run first."""
    run_first: list[Any] = []

    def first(warm: Recipe, unfinished: Path) -> None:
        run_first.append(nodes.resolved(warm))
        (unfinished / "model").mkdir(parents=True)
        (unfinished / "model" / "config.json").write_text("{}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGN_CACHE", str(folder / f"cache{built.model.recipe[-1]}{len(list(folder.iterdir()))}"))
        model_folder(built, folder, first, lambda note: None)
    return run_first
