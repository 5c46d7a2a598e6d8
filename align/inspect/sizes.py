"""The sizes of a recipe: prompts, rollouts and updates, and the memory of each process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.config.model_config import model_config_errors
from align.config.schema import Recipe
from align.errors import RecipeError
from align.inspect.rows import Row
from align.workers.shards import idle_note

if TYPE_CHECKING:
    from align.learner.memory import ModelShape


def rollouts(recipe: Recipe) -> int:
    """Sequences in a batch."""
    return recipe.batch.prompts * (recipe.batch.samples if recipe.algorithm.samples else 1)


def arithmetic(recipe: Recipe) -> list[Row]:
    """Rows for prompts, rollouts, updates and tokens."""
    algorithm, batch = recipe.algorithm, recipe.batch
    count, updates = rollouts(recipe), algorithm.epochs * algorithm.minibatches
    if algorithm.samples:
        rows = [Row("step", f"{batch.prompts} prompts × {batch.samples} samples = {count:,} rollouts"), *_refill(recipe)]
        rows.append(_rollout_unit(recipe))
    else:
        rows = [Row("step", f"{batch.prompts} {recipe.algorithm.learns_from}")]
    policy = (
        "one update a batch"
        if not algorithm.samples and algorithm.on_policy
        else ("on-policy" if algorithm.on_policy else "the later updates of a batch are off-policy")
    )
    kind, most = recipe.algorithm.learns_from, f"at most {recipe.steps * count * recipe.trained_tokens:,} tokens"
    if algorithm.ranks:  # rankings have two or more answers, as in the data
        most = f"each answer at most {recipe.sampling.max_tokens} tokens"
    return [
        *rows,
        Row(
            "updates",
            f"{algorithm.epochs} epochs × {algorithm.minibatches} minibatches = {updates} a step, "
            f"{count // algorithm.minibatches:,} {kind if algorithm.ranks else 'sequences'} each; {policy}",
        ),
        Row("run", f"{recipe.steps:,} steps: {recipe.steps * updates:,} updates, {recipe.steps * count:,} {kind}, {most}"),
    ]


def _refill(recipe: Recipe) -> list[Row]:
    """What a step draws beyond its batch."""
    batch = recipe.batch
    if batch.refill is None:
        return []
    rest = f"; up to {batch.refill} further rounds, {rollouts(recipe) * (1 + batch.refill):,} rollouts at most" if batch.refill else ""
    return [Row("refill", f"groups of equal rewards are left out{rest}")]


def _rollout_unit(recipe: Recipe) -> Row:
    """The work that a rollout worker gets at a time."""
    batch, workers = recipe.batch, recipe.workers.rollout
    cut = recipe.engine.units([1] * batch.prompts, batch.samples)
    share = -(-batch.prompts // workers) if cut is None else max(map(len, cut))
    at_once = f"{share} prompts × {batch.samples} = {share * batch.samples:,} rollouts"
    if cut is None:
        return Row("worker", f"at most {at_once}, on each of {workers}")
    text = f"units of at most {at_once}, {len(cut)} of them, dealt to {workers}"
    return Row("worker", "; ".join(filter(None, [text, idle_note(recipe.engine, batch.prompts, batch.samples, workers)])))


def memory_rows(recipe: Recipe) -> list[Row]:
    """The memory of each process, estimated from the model's configuration."""
    # transformers takes seconds to import, and other commands that only read a recipe do not need it.
    from align.run.initial_policy import config_of  # noqa: PLC0415

    try:
        config = config_of(recipe)
    except RecipeError as error:
        return [Row("", f"unknown: {error}")]
    if config is None:
        return [
            Row(
                "",
                f"unknown: {recipe.model.path} is neither a folder here nor an id in the hub's local cache. A folder with its config.json "
                "alone is enough for this estimate (model.path=FOLDER), or its keys: model.path=null "
                "model.config='{model_type: qwen2, hidden_size: 1536, ...}'",
            )
        ]
    from align.learner import memory  # noqa: PLC0415  (its model classes take seconds more)

    with model_config_errors():
        shape = memory.shape_of_config(config, recipe.model)
    say = memory.gigabytes
    holds = memory.permanent_memory(recipe, shape)
    standing = sum(holds.values())
    rows = [
        Row("learner", f"{say(standing)}: " + ", ".join(f"{name} {say(held)}" for name, held in holds.items())),
        Row("", _forward_pass(recipe, shape, standing)),
    ]
    if recipe.answers:
        width = memory.WIDTH[recipe.model.dtype]
        weights, cache = say(shape.parameters * width), say(shape.cache_a_token * width)
        rows.append(Row("engine", f"each {weights} of weights and {cache} for each token it holds at once"))
    return rows


def _forward_pass(recipe: Recipe, shape: ModelShape, standing: int) -> str:
    """Tokens times bytes of the largest forward pass that the recipe allows, and its sum with the permanent memory."""
    from align.learner import memory  # noqa: PLC0415  (transformers takes seconds to import)

    batch, say = recipe.batch, memory.gigabytes
    tokens, a_token = batch.micro_tokens or memory.ON_HOST["micro_tokens"], shape.vocabulary * memory.models_with_logits(recipe)
    at_once = tokens if batch.head_elements is None else min(tokens, max(batch.head_elements // a_token, 1))
    forward, head = memory.activations(recipe, shape, 1), memory.logits(recipe, shape, 1)
    whose = "batch.micro_tokens" if batch.micro_tokens else "batch.micro_tokens: null, on a CPU; on a GPU as many as fit, at most that"
    most = say(standing + tokens * forward + at_once * head)
    return (
        f"and a forward pass of {tokens:,} input tokens ({whose}): {tokens:,} × {say(forward)} = {say(tokens * forward)}, and the logits "
        f"of {at_once:,} at once × {say(head)} = {say(at_once * head)}; together at most {most}"
    )
