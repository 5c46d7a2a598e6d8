"""Learners of tiny models with one reference, and the log-probs of such models by transformers alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from helpers.paths import PLUGINS
from helpers.rollouts import groups
from torch import Tensor
from transformers import AutoModelForCausalLM

from align.config import recipes, registry
from align.core.logprobs import token_stats
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.types import Rewards, TokenBatch

PLUGIN = PLUGINS / "systematic.py"
WITH_STATES = [name for name in registry.shipped("reference") if not registry.resolve("reference", name, name).tokens_only]
"""Those an exact form can be measured against."""
INITIAL = ["frozen", "ema", "hard_reset", "behaviour", "window"]
"""Those that begin as the policy."""


def reference(folder: Path, name: str) -> dict:
    """A recipe's node for each shipped reference."""
    return {"name": name} | {
        "ema": {"rate": 0.3, "every": 2},
        "hard_reset": {"every": 4},
        "window": {"last": 3, "every": 1, "decay": 0.5},
        "soup": {"paths": [str(folder / "second")], "weights": [0.4]},
        "teacher": {"path": str(folder / "second")},
        "checkpoint": {"path": str(folder / "third")},
        "context": {"prepend": "12"},
    }.get(name, {})


def make(
    folder: Path, ref: str | dict, *, lora: int = 0, minibatches: int = 2, model: str = "initial", alpha: float = 32.0, **keys
) -> Learner:
    node = reference(folder, ref) if isinstance(ref, str) else ref
    options = {"rank": lora, "alpha": alpha} if lora else {}
    return Learner(
        recipes.build(
            {
                "steps": 8,
                "task": f"{PLUGIN}:OnePrompt",
                "reward": f"{PLUGIN}:ByToken",
                "engine": f"{PLUGIN}:Systematic",
                "algorithm": {"name": "grpo", "minibatches": minibatches} | keys.pop("algorithm", {}),
                "model": {"path": str(folder / model), "lora": options},
                "batch": {"prompts": 4, "samples": 3},
                "sampling": {"max_tokens": 6, "temperature": 0.7},
                "optimizer": {"lr": 1e-2},
                "workers": {"backend": "local"},
                "evaluation": {"every": -1},
                "regularizers": {"kl": {"coefficient": 0.1, "reference": node, "estimator": "exact"} | keys},
            }
        ),
        str(folder / model),
    )


def batch(learner: Learner, seed: int = 0) -> TokenBatch:
    rewards = Rewards(values=np.random.default_rng(seed).random(12).astype(np.float32))
    packed = replace(pack(groups(seed), rewards), betas={"kl": 0.1}, step=seed)
    return prepare_batch(learner.recipe, learner.compute_logprobs(packed))


def logp_of(model: torch.nn.Module, packed: TokenBatch, temperature: float = 0.7, rows: int | None = None) -> Tensor:
    """log-probs [T, V] at each response token by transformers alone, each sequence by itself."""
    parts = []
    for i, ids in enumerate(packed.input_ids):
        start, n = int(packed.first_columns[i]), int(packed.lengths[i])
        with torch.no_grad():
            logits = model(ids[None, : start + n]).logits[0, start - 1 : start + n - 1, :rows]
        parts.append(torch.log_softmax(logits / temperature, -1))
    return torch.cat(parts)


def sampled(logp: Tensor, packed: TokenBatch) -> Tensor:
    return logp.gather(1, packed.tokens[:, None]).squeeze(1)


def reference_logp(learner: Learner, scored: TokenBatch) -> Tensor:
    """[T], log ref of the tokens of a scored batch, from the states that the learner has for its update."""
    states = learner.states
    return token_stats(states.of(["kl"], scored)["kl"], states.head("kl"), scored.tokens, temperature=0.7).logp


def hf(folder: Path, name: str) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder / name)


def trained(learner: Learner) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in learner.policy.trained()}


def after_each_step(learner: Learner) -> list[dict[str, Tensor]]:
    """Filled, as the learner works, with the policy after every optimizer step."""
    seen, step = [], learner.optimizer.step

    def stepped():
        step()
        seen.append(trained(learner))

    learner.optimizer.step = stepped
    return seen


def exact_kl(learner: Learner, scored: TokenBatch) -> float:
    """Nats an answer, as an update that moves nothing measures it."""
    step, learner.optimizer.step = learner.optimizer.step, lambda: None
    measured = learner.update(scored, 0)["divergence/kl"].mean
    learner.optimizer.step = step
    return measured
