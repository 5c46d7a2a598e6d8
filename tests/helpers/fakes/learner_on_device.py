"""`python -m helpers.fakes.learner_on_device MODEL MICRO_TOKENS,MINIBATCHES ...`: a batch for each pair on the simulated device.

Prints as a line of JSON each the micro-batches of the update, the waits by place of `score` and of `update`, and the bytes copied each way.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
from helpers.fakes import device
from helpers.paths import PLUGINS
from helpers.rollouts import groups

from align.config import recipes
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner import learner as learners
from align.learner import policy as policies
from align.types import Rewards

PLUGIN = PLUGINS / "systematic.py"


def main(folder: str, *cases: str) -> None:
    simulated = device.install()
    policies.device_of = lambda options: simulated
    for case in cases:
        print(json.dumps(one(folder, *map(int, case.split(",")))))


def one(folder: str, micro_tokens: int, minibatches: int) -> dict:
    made = recipes.build(
        {
            "steps": 4,
            "task": f"{PLUGIN}:OnePrompt",
            "reward": f"{PLUGIN}:ByToken",
            "engine": f"{PLUGIN}:Systematic",
            "algorithm": {"name": "grpo", "minibatches": minibatches},
            "model": {"path": folder},
            "sampling": {"max_tokens": 6},
            "batch": {"prompts": 4, "samples": 3, "micro_tokens": micro_tokens},
            "head": {"backend": "torch"},
            "workers": {"backend": "local"},
            "evaluation": {"every": -1},
            "optimizer": {"lr": 1e-3},
            "regularizers": {"kl": {"coefficient": 0.1, "estimator": "exact"}},
        }
    )
    cut, micro_batches = Counter(), learners.micro_batches

    def counted(*args, **keys):
        for part in micro_batches(*args, **keys):
            cut["micro-batches"] += 1
            yield part

    with patch.object(learners, "micro_batches", counted), device.Device():
        learner = learners.Learner(made, folder)
        rewards = Rewards(values=np.random.default_rng(0).random(12).astype(np.float32))
        batch = replace(pack(groups(), rewards), betas={"kl": 0.1})
        learner.compute_logprobs(batch)  # the first batch of a run is checked too
        forget()
        scored = learner.compute_logprobs(batch)
        found = {"score": recorded()}
        forget()
        stats = learner.update(prepare_batch(made, scored), 0)
        found["update"] = recorded()
    return found | cut | {"loss": stats["loss/policy"].mean, "kl": stats["divergence/kl"].mean}


def forget() -> None:
    device.waits.clear()
    device.copied.clear()


def recorded() -> dict:
    return {"waits": {f"{what} at {place}": n for (what, place), n in device.waits.items()}, "copied": dict(device.copied)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
