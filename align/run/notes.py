"""Notes that a run prints once: rows that are left out, warnings of regularizers, and the distance of each reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from align.config.docstrings import format_part
from align.config.schema import Recipe
from align.experience import task_data
from align.experience.examples import Examples
from align.learner.references import reference_place
from align.references import of_recipe, owner
from align.run.evaluation import Suites
from align.types import Stat


def data_notes(recipe: Recipe, examples: Examples, suites: Suites) -> Iterator[str]:
    """The notes on the data and the recipe, before the workers start."""
    yield from task_data.notes(recipe.task)
    yield from examples.notes
    yield from suites.notes
    for count, which in ((examples.dropped, "rankings"), (suites.dropped, "held-out rankings")):
        if count:
            yield f"task: {count} {which} with an answer beyond sampling.max_tokens are left out"
    if recipe.environment is not None:
        yield examples.turn_note(recipe.environment.role)
    if recipe.answers and recipe.evaluation.every >= 0 and not suites.prompts:
        yield (
            "task: has no held-out problems, so no answers of the model are evaluated and kl/initial is not measured: name some with a key "
            "of `align list task`, such as eval_share or held_out, or set evaluation.every=-1"
        )
    for name, regularizer in recipe.regularizers.items():
        if regularizer.warning:
            yield f"regularizers.{name}: {regularizer.warning}"
    drawn, prompts = recipe.steps * recipe.batch.prompts, len(examples.examples)
    if recipe.curriculum is not None and drawn < 2 * prompts:
        yield (
            f"curriculum: the run draws {drawn:,} prompts, and the task has {prompts:,}: most are met at most once, so their pass rates "
            "have little effect; give more steps, or fewer prompts"
        )


def distance_notes(recipe: Recipe, stats: Mapping[str, Stat]) -> Iterator[str]:
    """The policy's distance on the first batch from each reference that is another model (0 for the others, as checked)."""
    compared = of_recipe(recipe)
    for name, reference in compared.items():
        if not reference.starts_at_policy:
            k3 = stats[f"{reference_place(name, list(compared))}/k3"].mean
            yield f"step 0: the policy is {k3:.3g} nats a token (k3) away from {format_part(reference)}, the reference of {owner(name)}"
