"""Memory budgets of the learner's device: input tokens in one forward pass, and logits in memory at once."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import NamedTuple

import torch

from align.config.schema import Batch, Recipe
from align.errors import UserError
from align.learner.memory import ON_HOST, ModelShape, activations, gigabytes, logits, models_with_logits, permanent_memory, shape_of
from align.learner.policy import Policy
from align.learner.reward_model import RewardModel

MOST_TOKENS = 1 << 16
MULTIPLE = 1 << 10
ENOUGH_TOKENS = 1 << 12
"""With fewer tokens in a forward pass, memory bandwidth limits a GPU."""
MOST_RECOMPUTED = 1 << 30
"""Most logits in a chunk that is recomputed in the backward pass: a larger chunk is not faster."""
USABLE = 0.9
"""Usable fraction of a device's memory; the rest goes to the CUDA context, the allocator and the libraries."""


class Budgets(NamedTuple):
    """Fixed when the learner starts, from the device's size and not its free memory, so that a resumed run splits batches alike."""

    micro_tokens: int
    """Padded input tokens in one forward pass."""
    head_elements: int
    """Logits in memory at once. If those of a micro-batch fit, they are kept for the backward pass, which saves two matrix products."""
    kept_bytes: int
    """Device memory for reference states of a batch that serves several updates."""


def device_budgets(recipe: Recipe, policy: Policy | RewardModel) -> Budgets:
    """The budgets for the device of `policy`. Raises UserError if the recipe cannot fit."""
    if policy.device.type != "cuda":
        return cpu_budgets(recipe.batch)
    size = torch.cuda.get_device_properties(policy.device).total_memory
    return budgets_within(recipe, shape_of(policy.module, policy.config), size * share_of_device(recipe))


def share_of_device(recipe: Recipe) -> float:
    """The learner's share of its device: an engine in the same process, or other actors, use the rest."""
    return 0.5 if recipe.workers.backend == "local" and recipe.answers else min(1.0, recipe.workers.learner_gpus or 1.0)


def cpu_budgets(batch: Batch) -> Budgets:
    """The budgets on a CPU."""
    return Budgets(batch.micro_tokens or ON_HOST["micro_tokens"], batch.head_elements or ON_HOST["head_elements"], sys.maxsize)


def budgets_within(recipe: Recipe, shape: ModelShape, device_bytes: float) -> Budgets:
    """The budgets for `device_bytes`, the learner's share of a device. Raises UserError with the memory needed, the memory there is, and
    the remedies."""
    holds, batch = permanent_memory(recipe, shape), recipe.batch
    room = USABLE * device_bytes - sum(holds.values())
    if room <= 0:
        raise UserError(
            f"the learner does not fit into {gigabytes(device_bytes)} of device memory{_of_share(recipe)}: "
            + ", ".join(f"{name} {gigabytes(held)}" for name, held in holds.items())
            + f". {_remedies(recipe, shape)}"
        )
    forward, head = activations(recipe, shape, 1), logits(recipe, shape, 1)
    tokens = batch.micro_tokens or _micro_tokens(room, forward, head)
    needed = batch.micro_tokens or min(recipe.response_tokens, MULTIPLE)
    if (most := max(tokens, needed)) * forward > room:
        raise UserError(
            f"batch.micro_tokens: a forward pass over {most:,} tokens keeps {gigabytes(most * forward)} for its backward pass, and "
            f"beside the model there are {gigabytes(room)} of device memory: give fewer"
            + ("" if recipe.model.activation_checkpointing else ", or set model.activation_checkpointing: true")
        )
    rest = room - tokens * forward
    elements = batch.head_elements
    if elements is None:
        kept = tokens * head <= rest
        chunk = max(ON_HOST["head_elements"], min(MOST_RECOMPUTED, int(rest / 8)))
        elements = tokens * shape.vocabulary * models_with_logits(recipe) if kept else chunk
    return Budgets(tokens, elements, int(max(0, rest - 6 * elements) / 2))


def _of_share(recipe: Recipe) -> str:
    """Why the learner has a part of its device, after the size of that part; empty if it has the whole."""
    if share_of_device(recipe) == 1:
        return ""
    if recipe.workers.backend == "local":
        return " (half of the device: with workers.backend local the engine is in the same process)"
    return f" (its share is workers.learner_gpus, {recipe.workers.learner_gpus:g})"


def _remedies(recipe: Recipe, shape: ModelShape) -> str:
    """What makes the permanent memory smaller than this recipe's."""
    narrow = replace(recipe, model=replace(recipe.model, dtype="bfloat16"))
    remedies = ["train adapters (model.lora.rank)"] if recipe.model.lora.rank == 0 else []
    # Trained values take 18 bytes in bfloat16, with a float32 master, and 16 in float32.
    if sum(permanent_memory(narrow, shape).values()) < sum(permanent_memory(recipe, shape).values()):
        remedies.append("hold the model in bfloat16 (model.dtype)")
    said = "".join(f"{remedy}, " for remedy in remedies) + ("or " if remedies else "") + "use a smaller model or a larger device"
    return said[0].upper() + said[1:]


def _micro_tokens(room: float, forward: int, head: int) -> int:
    """As many tokens as fit together with their logits; if that is too few, as many as fit into half of `room`."""
    with_logits = int(room / (forward + head))
    tokens = with_logits if with_logits >= ENOUGH_TOKENS else int(room / 2 / forward)
    return max(MULTIPLE, min(MOST_TOKENS, tokens) // MULTIPLE * MULTIPLE)
