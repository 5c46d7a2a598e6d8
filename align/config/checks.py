"""Checks whether a recipe can run: calls `refuse` of every part, and checks rules that involve several parts."""

from __future__ import annotations

from dataclasses import fields

from align.algorithms import Algorithm
from align.config.docstrings import format_part
from align.config.nodes import resolved
from align.config.parts import Part, Setting, location
from align.config.refusals import parts_with_settings, refusal
from align.config.schema import Recipe
from align.divergences import Divergence
from align.engines import HeldOutEngine
from align.errors import RecipeError
from align.oracle.divergence_check import try_divergence
from align.references import OF_ALGORITHM
from align.writers import Writer


def check(recipe: Recipe) -> None:
    """Raises RecipeError at the wrong key."""
    algorithm = recipe.algorithm
    try:
        algorithm.check()
    except ValueError as error:
        raise RecipeError("algorithm", f"{location(type(algorithm))}: {error}") from error
    if algorithm.rewarded and recipe.reward is None:
        raise RecipeError("reward", f"{algorithm.recipe_name} learns from rewards: name one")
    _refuse_dead_keys(recipe)
    _check_batch(recipe)
    check_held_out(recipe)
    if recipe.model.lora.dropout and recipe.regularizers:
        raise RecipeError("model.lora.dropout", "makes policy and reference differ by noise; set it to 0 with regularizers")
    if recipe.model.lora.dropout and algorithm.samples:
        raise RecipeError(
            "model.lora.dropout",
            f"{algorithm.recipe_name} weighs each token by the ratio of the policy to the policy that drew it, which had no dropout: the "
            "ratio would be noise where nothing has changed; set it to 0 (sft and reward_model can have it)",
        )
    for part, setting in parts_with_settings(recipe):
        if isinstance(part, Divergence):
            try_divergence(part, setting.where)
        if not isinstance(part, Writer):
            _ask(part, setting)
    if recipe.algorithm.reference is not None and OF_ALGORITHM in recipe.regularizers:
        raise RecipeError(
            f"regularizers.{OF_ALGORITHM}", "is the name of the algorithm's own reference in metrics: call this regularizer otherwise"
        )
    if recipe.environment is not None and recipe.response_tokens < 2 * recipe.sampling.max_tokens:
        raise RecipeError(
            "episode.max_tokens",
            f"{recipe.response_tokens} tokens have no room for a second turn of sampling.max_tokens {recipe.sampling.max_tokens}: give at "
            f"least {2 * recipe.sampling.max_tokens}, or lower sampling.max_tokens",
        )
    _check_alike(recipe)
    _check_links(recipe)
    _check_devices(recipe)


def check_writers(recipe: Recipe) -> None:
    """Raises RecipeError at a writer that cannot write here. It is not in `check`, because workers, `explain` and `eval` need no writer."""
    for part, setting in parts_with_settings(recipe):
        if isinstance(part, Writer):
            _ask(part, setting)


def check_held_out(recipe: Recipe) -> None:
    """Raises RecipeError where held-out answers cannot be drawn as `evaluation.sampling` says."""
    if recipe.drawing is None:
        return
    if recipe.algorithm.trains_reward_model:
        raise RecipeError(
            "evaluation.sampling", f"changes nothing: {recipe.algorithm.recipe_name} trains a reward model, which has no answers"
        )
    if not isinstance(recipe.engine, HeldOutEngine):
        raise RecipeError(
            "evaluation.sampling",
            f"engine {format_part(recipe.engine)} draws every answer by `sampling`: delete the key, or use engine: transformers or vllm",
        )
    if recipe.drawing.temperature == 0 and recipe.evaluation.samples > 1:
        raise RecipeError(
            "evaluation.samples",
            f"with evaluation.sampling.temperature: 0 the {recipe.evaluation.samples} answers to a problem are the same: set it to 1",
        )


def _ask(part: Part, setting: Setting) -> None:
    if (reason := refusal(part, setting)) is not None:
        raise RecipeError(setting.where, reason)


def _refuse_dead_keys(recipe: Recipe) -> None:
    """Raises RecipeError for a key that was set and has no effect. A key with its default counts as not set."""
    offline = f"{recipe.algorithm.recipe_name} learns from {recipe.algorithm.learns_from}; delete the key"
    switched_off = [
        (recipe.model.lora, "model.lora", "rank", recipe.model.lora.rank == 0, "rank: 0 trains every parameter"),
        (recipe.evaluation, "evaluation", "every", recipe.evaluation.every < 0, "every: -1 never evaluates"),
        (recipe.reward_limits, "reward_limits", None, not recipe.algorithm.rewarded, offline),
        (recipe.episode, "episode", None, recipe.environment is None, "without an environment an answer is one turn"),
    ]
    for keys, where, switch, off, why in switched_off:
        unset = type(keys)()
        for f in fields(keys):
            read = recipe.curriculum is not None and (where, f.name) == ("evaluation", "correct")
            if off and not read and f.name != switch and getattr(keys, f.name) != getattr(unset, f.name):
                raise RecipeError(f"{where}.{f.name}", f"changes nothing: {why}")
    if recipe.algorithm.trains_reward_model and recipe.evaluation.samples != type(recipe.evaluation).samples:
        raise RecipeError(
            "evaluation.samples", f"changes nothing: {recipe.algorithm.recipe_name} trains a reward model, which has no answers"
        )
    if recipe.algorithm.trains_reward_model and recipe.regularizers:
        name = next(iter(recipe.regularizers))
        raise RecipeError(
            f"regularizers.{name}",
            f"changes nothing: {recipe.algorithm.recipe_name} trains a reward model, so there is no policy to regularize; delete it",
        )
    if not recipe.algorithm.rewarded and recipe.reward is not None:
        raise RecipeError("reward", f"changes nothing: {offline}")
    if not recipe.algorithm.samples and recipe.batch.samples != type(recipe.batch).samples:
        raise RecipeError("batch.samples", f"changes nothing: {offline}")


def _check_batch(recipe: Recipe) -> None:
    algorithm, batch = recipe.algorithm, recipe.batch
    if algorithm.samples and batch.samples < algorithm.least_samples:
        of = algorithm.recipe_name if algorithm.advantage is None else f"advantage {format_part(algorithm.advantage)}"
        raise RecipeError(
            "batch.samples",
            f"{of} compares at least {algorithm.least_samples} answers to a prompt, and every advantage of "
            f"fewer is 0: set it to {algorithm.least_samples} or more"
            + ("" if algorithm.advantage is None else ", or use an advantage with its own baseline"),
        )
    if batch.prompts % algorithm.minibatches:
        raise RecipeError(
            "batch.prompts",
            f"{batch.prompts} prompts do not divide into {algorithm.minibatches} minibatches (groups stay "
            "whole); change algorithm.minibatches or batch.prompts",
        )
    if batch.refill is not None and (reason := _no_refill(algorithm)) is not None:
        raise RecipeError("batch.refill", reason)


def _no_refill(algorithm: Algorithm) -> str | None:
    """Why groups of equal rewards cannot be left out of what this algorithm learns from, or None."""
    if not algorithm.rewarded:
        return f"changes nothing: {algorithm.recipe_name} learns from {algorithm.learns_from}; delete the key"
    if algorithm.critic is not None:
        return f"{algorithm.recipe_name} trains a critic, which learns from every answer, also of a group of equal rewards; delete the key"
    if algorithm.advantage is None:
        return f"{algorithm.recipe_name} learns also from a group whose answers all have the same reward; delete the key, or use grpo"
    if algorithm.advantage.least_samples < 2:
        return (
            f"advantage {format_part(algorithm.advantage)} does not compare the answers of a group, so equal rewards teach something too: "
            "delete the key, or use an advantage that does (group_standardised, group_centred, leave_one_out)"
        )
    return None


def _check_alike(recipe: Recipe) -> None:
    """Refuses two regularizers that differ only in name and coefficient: no key would show their total strength."""
    seen: list[tuple[str, dict]] = []
    for name, regularizer in recipe.regularizers.items():
        node = {key: value for key, value in resolved(regularizer).items() if key != "coefficient"}
        same = next((other for other, before in seen if before == node), None)
        if same is not None:
            raise RecipeError(
                f"regularizers.{name}",
                f"is the same as regularizers.{same} in everything but its coefficient: keep one of them, with the sum of the coefficients",
            )
        seen.append((name, node))


def _check_devices(recipe: Recipe) -> None:
    """Raises RecipeError for a process with device cuda but 0 GPUs in `workers`, which hides the GPUs, and for the reverse."""
    roles = [("workers.learner_gpus", recipe.workers.learner_gpus, "model.device", recipe.model.device)]
    if recipe.answers:
        roles.append(("workers.rollout_gpus", recipe.workers.rollout_gpus, "engine.device", recipe.engine.device))
    for key, gpus, where, device in roles:
        if gpus == 0 and device.startswith("cuda"):
            raise RecipeError(key, f"0 hides the GPUs, and {where}: {device} wants one: leave one of the two out")
        if gpus and device == "cpu":
            raise RecipeError(key, f"{gpus:g} reserves GPUs, and {where}: cpu uses none: leave one of the two out")
    share = recipe.workers.rollout_gpus
    if recipe.answers and share and share < 1:
        recipe.engine.check_share(share, f"workers.rollout_gpus: {share:g} lets others work on its GPU")


def _check_links(recipe: Recipe) -> None:
    algorithm, linked = recipe.algorithm, [name for name, r in recipe.regularizers.items() if r.placement == "link"]
    if algorithm.links and len(linked) != 1:
        raise RecipeError(
            "regularizers",
            f"{algorithm.recipe_name} needs exactly one regularizer with placement: link, whose divergence "
            f"and coefficient make the implicit reward; there are {len(linked)}. Write for example "
            "regularizers: {kl: {divergence: reverse_kl, placement: link, coefficient: 0.1}}",
        )
    if linked and not algorithm.links:
        raise RecipeError(
            f"regularizers.{linked[0]}.placement",
            f"{algorithm.recipe_name} has no loss of implicit rewards to link to: use placement: loss or reward",
        )
