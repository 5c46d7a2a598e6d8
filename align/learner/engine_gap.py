"""What is said of an engine whose log-probs are not the learner's: the causes that were looked for, found and absent."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import AutoConfig

from align.config.schema import Recipe
from align.errors import RunStopped


def stop_on_engine_gap(recipe: Recipe, model_dir: str, gap: float, step: int, agreement: str | None, versions: Tensor | None) -> None:
    """Raises RunStopped if `gap` is above the recipe's limit.

    Args: gap: mean |log mu - log pi_old|, nats; agreement: what the check of the learner's own log-probs says, if it ran;
    versions: int64 [T], of the weights that drew each token.
    """
    largest = recipe.largest_engine_gap
    if gap <= largest:
        return
    found: list[str] = []
    absent = [] if agreement is None else [agreement]
    learner, engine = recipe.model.dtype, _engine_dtype(recipe, model_dir)
    if learner != engine:
        found.append(
            f"the engine computes in {engine} and the learner in {learner}: give both one precision (model.dtype={engine}, or "
            "the engine's dtype)"
        )
    else:
        absent.append(f"both compute in {learner}")
    drawn = [] if versions is None else sorted(set(versions.tolist()))
    if len(drawn) > 1:
        found.append(f"the tokens were drawn by weights of versions {drawn[0]} to {drawn[-1]}: the engine is behind the learner")
    elif drawn:
        absent.append(f"all tokens were drawn by weights of one version, {drawn[0]}")
    raise RunStopped(
        f"step {step}: the engine's log-probs differ from the learner's by {gap:.2e} nats a token on average, above max_engine_gap "
        f"{largest:g}. Looked for and found: {'; '.join(found) or 'no cause'}. Looked for and absent: {'; '.join(absent)}. "
        + _advice(recipe, gap, step, bool(found))
    )


def _engine_dtype(recipe: Recipe, model_dir: str) -> str:
    """The precision of the engine: its key, or that of the saved model."""
    if recipe.engine.dtype != "auto":
        return recipe.engine.dtype
    saved = AutoConfig.from_pretrained(model_dir, local_files_only=True).dtype
    return str(saved or torch.float32).removeprefix("torch.")


def _advice(recipe: Recipe, gap: float, step: int, found: bool) -> str:
    """The limit comes last: a larger one only hides a wrong weight or mask."""
    if not math.isfinite(gap):
        return "A log-prob is not finite: the engine drew a token that the learner gives no probability, or the reverse"
    if step:
        cause = "The first weights agreed, so the engine does not hold the learner's new ones: try another engine"
    else:
        other = "engine: transformers" if recipe.engine.recipe_name == "vllm" else "another engine"
        cause = (
            "Nothing is learned yet, so both began with the same weights and compute differently, and --resume alone stops here again. "
            f"Compare with {other}: if its gap is small, this engine computes the model or its sampling in another way"
        )
    cause = "Mend what was found" if found else cause
    return f"{cause}. Only where that difference is meant, add max_engine_gap={2 * gap:.1g} to the command"
