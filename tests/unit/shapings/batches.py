"""A batch of four answers with every figure written out, the shapings of it, and a recipe that has shapings."""

from __future__ import annotations

from dataclasses import replace

import torch
from helpers.built import single_turn
from helpers.paths import PLUGINS
from torch import Tensor

from align.config.nodes import build_part
from align.types import TokenBatch

PLUGIN = PLUGINS / "systematic.py"
LENGTHS = [2, 1, 3, 4]
SEQUENCES = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
ADVANTAGES = [0.8, 0.8, -0.5, -1.2, -1.2, -1.2, 0.0, 0.6, -0.3, 0.6]
ENTROPY = [0.5, 1.5, 2.0, 0.25, 0.75, 3.0, 1.25, 0.125, 0.5, 4.0]
OLD = [-0.1, -0.9, -0.5, -1.0, -40.0, -0.2, -0.7, -0.3, -1.5, -0.4]
GAP = [0.4, -0.1, 0.9, 0.0, -0.6, 0.1, -0.8, 0.2, 1.2, -0.2]
"""log pi_old - log mu."""


def batch(rewards=(1.0, 0.0, 0.0, 0.5), lengths=LENGTHS, groups=(0, 0, 0, 1), **changes) -> TokenBatch:
    lengths = torch.tensor(lengths)
    return replace(
        TokenBatch(
            input_ids=torch.arange(40).reshape(4, 10),
            **single_turn(torch.tensor([5, 5, 5, 3]), lengths),
            group_ids=torch.tensor(groups),
            rewards=torch.tensor(rewards),
            old_logp=torch.tensor(OLD),
            sampler_logp=torch.tensor(OLD) - torch.tensor(GAP),
            entropy=torch.tensor(ENTROPY),
        ),
        **changes,
    )


def shaping(name: str, **keys):
    return build_part("shaping", {"name": name} | keys, "here")


def shaped(name: str, of: TokenBatch | None = None, advantages=ADVANTAGES, **keys) -> Tensor:
    return shaping(name, **keys).advantages(batch() if of is None else of, torch.tensor(advantages), "x")


def close(found: Tensor, expected) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=1e-6, atol=1e-7)


def node(shapings: dict, **changes) -> dict:
    return {
        "steps": 4,
        "task": f"{PLUGIN}:OnePrompt",
        "reward": f"{PLUGIN}:ByToken",
        "engine": f"{PLUGIN}:Systematic",
        "algorithm": "grpo",
        "model": {"path": "nowhere"},
        "batch": {"prompts": 2, "samples": 2, "micro_tokens": 20},
        "sampling": {"max_tokens": 4},
        "optimizer": {"lr": 1e-2},
        "workers": {"backend": "local"},
        "evaluation": {"every": -1},
        "shapings": shapings,
    } | changes
