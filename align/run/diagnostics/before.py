"""What is found before the first step, from the recipe, its prompts and the tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from align.config.schema import Recipe
from align.run.diagnostics import Finding
from align.tasks import Example

SHOWN = 8
"""Characters that a finding lists."""


def before_the_run(recipe: Recipe, examples: Sequence[Example], tokenizer: Any) -> Iterator[Finding]:
    """Findings about schedules, repeated prompts and unknown characters. Args: examples: those that are trained on."""
    yield from _schedules(recipe)
    yield from _repeated_examples(recipe, examples)
    yield from _unknown_characters(examples, tokenizer)


def _schedules(recipe: Recipe) -> Iterator[Finding]:
    if 0 < recipe.steps < recipe.optimizer.warmup_steps:
        yield Finding(
            "schedules",
            f"optimizer.warmup_steps: {recipe.optimizer.warmup_steps} steps of warm-up are longer than the run of {recipe.steps}, which "
            "never reaches optimizer.lr; lower it",
        )
    for name, regularizer in recipe.regularizers.items():
        ends = regularizer.coefficient.schedule_steps
        if 0 < recipe.steps < ends:
            yield Finding(
                "schedules",
                f"regularizers.{name}.coefficient: its schedule ends at step {ends:g} and the run has {recipe.steps}, so its last value "
                "is never reached; make the schedule shorter",
            )


def _repeated_examples(recipe: Recipe, examples: Sequence[Example]) -> Iterator[Finding]:
    count = len(examples)
    if recipe.batch.prompts > count:
        yield Finding(
            "repeated_prompts",
            f"batch.prompts: a step takes {recipe.batch.prompts} prompts and the task has {count}, so each is in a step "
            f"{recipe.batch.prompts / count:.2g} times; set it to {count} or fewer and raise batch.samples, or give the task more prompts",
        )
    repeated = Counter((e.text, e.answer, e.ranked, e.labels) for e in examples)
    # A task that draws its problems at random has some twice; what counts is a step that must hold one twice.
    if len(repeated) < count and len(repeated) < max(recipe.batch.prompts, 2):
        most, times = repeated.most_common(1)[0]
        yield Finding(
            "repeated_prompts",
            f"task: {count - len(repeated)} of {count} examples repeat another one ({most[0][:40]!r} comes {times} times), and weigh more "
            "than the others; delete the copies if that is not intended",
        )


def _unknown_characters(examples: Sequence[Example], tokenizer: Any) -> Iterator[Finding]:
    """A character is unknown if the tokenizer makes no token of it, or only a special one."""
    special = set(tokenizer.all_special_ids)
    texts = [text for e in examples for text in (e.text, e.answer or "", *e.ranked)]
    characters = sorted({c for text in texts for c in text if c.isprintable() and not c.isspace()})
    encoded = tokenizer(characters, add_special_tokens=False)["input_ids"] if characters else []
    unknown = {c for c, ids in zip(characters, encoded, strict=True) if special.issuperset(ids)}
    if unknown:
        rows = sum(not unknown.isdisjoint("".join((e.text, e.answer or "", *e.ranked))) for e in examples)
        listed = " ".join(sorted(unknown)[:SHOWN]) + (f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else "")
        yield Finding(
            "unknown_characters",
            f"task: the tokenizer has no token for {len(unknown)} characters of {rows} of {len(examples)} examples ({listed}), so "
            "the model does not see them; use a model whose tokenizer has them, or write the data without them",
        )
