from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from align.config.nodes import part
from align.config.ranges import AtLeastOne
from align.errors import RecipeError
from align.tasks import TOO_LONG, Example, Task
from align.types import Group


@dataclass(frozen=True)
class Mix(Task):
    """Several tasks at once, each with a share of the prompts: `sources: {easy: {name: jsonl, path: a.jsonl}, hard: gsm8k}`.

    Without weights every example comes once. With weights, an epoch has each example at least once, and those of a source whose share is
    larger than its number of examples come again, so that the shares are those of the weights. An example's id begins with the name of
    its source, which rewards get as the field `source`. A suite is called `SOURCE/SUITE`, and its source judges it.
    """

    sources: Any = part("task", many=True)
    """Tasks by names of your choice."""
    weights: dict[str, float] | None = None
    """The relative share of each source, above 0, by its name; null: each in proportion to its number of examples."""
    max_prompt_tokens: AtLeastOne | None = None
    """Tokens of the longest prompt of any source; null: any that the model has positions for."""
    too_long: str = "stop"
    """As in the sources, for all of them: `stop`, `drop` or `truncate_left`."""

    def __post_init__(self):
        if not self.sources:
            raise ValueError("sources must name at least one task: sources: {mine: {name: jsonl, path: rows.jsonl}, theirs: gsm8k}")
        if bad := next((name for name in self.sources if "/" in name or "#" in name), None):
            raise ValueError(
                f"sources: {bad!r} has a slash, which separates a source from its suite, or #, which counts copies; use another name"
            )
        if self.weights is not None and self.weights.keys() != self.sources.keys():
            raise ValueError(f"weights must have the names of the sources, {', '.join(self.sources)}, not {', '.join(self.weights)}")
        if bad := next((name for name, weight in (self.weights or {}).items() if not weight > 0), None):
            raise ValueError(f"weights: {bad} must be above 0; take the source out instead")
        if self.too_long not in TOO_LONG:
            raise ValueError(f"too_long must be stop, drop or truncate_left, not {self.too_long!r}")
        for name, source in self.sources.items():
            if (source.max_prompt_tokens, source.too_long) != (None, "stop"):
                raise ValueError(f"sources.{name}: max_prompt_tokens and too_long change nothing inside a mix: give them to the mix")

    def examples(self) -> Sequence[Example]:
        found = {name: list(source.examples()) for name, source in self.sources.items()}
        counts = _counts({name: len(examples) for name, examples in found.items()}, self.weights)
        return [_of(name, e, copy) for name, examples in found.items() for copy, e in _repeated(examples, counts[name])]

    def notes(self) -> Sequence[str]:
        found = {name: len(source.examples()) for name, source in self.sources.items()}
        counts = _counts(found, self.weights)
        shares = ", ".join(f"{counts[name]:,} from {found[name]:,} examples of {name}" for name in found)
        return [*(f"{name}: {line}" for name, source in self.sources.items() for line in source.notes()), f"task: an epoch has {shares}"]

    def suites(self, problems: int) -> Mapping[str, Sequence[Example]]:
        return {
            f"{name}/{suite}": [_of(name, e) for e in examples]
            for name, source in self.sources.items()
            for suite, examples in source.suites(problems).items()
        }

    def rankings(self) -> Sequence[Example]:
        return [_of(name, e) for name, source in self.sources.items() for e in source.rankings()]

    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        """Delegates to the source of the suite."""
        name, _, inner = suite.partition("/")
        return self.sources[name].judge(inner, groups)

    def tokenizer(self) -> Any:
        """The first that a source brings."""
        return next((t for source in self.sources.values() if (t := source.tokenizer()) is not None), None)


LARGEST_EPOCH = 10**6
"""Examples that an epoch may have, however few the sources have."""
MOST_REPEATED = 100
"""Times that an epoch may be as large as all sources together."""


def _counts(sizes: Mapping[str, int], weights: Mapping[str, float] | None) -> dict[str, int]:
    """How many examples each source gives an epoch: in proportion to the weights, and at least as many as it has.

    Raises RecipeError for weights so unequal that an epoch would repeat its sources without measure.
    """
    if weights is None:
        return dict(sizes)
    epoch = max(size / weights[name] for name, size in sizes.items())
    counts = {name: round(epoch * weights[name]) for name in sizes}
    if sum(counts.values()) > max(LARGEST_EPOCH, MOST_REPEATED * sum(sizes.values())):
        most = max(counts, key=lambda name: counts[name] / sizes[name])
        raise RecipeError(
            "task.weights",
            f"{most} with {sizes[most]:,} examples would be repeated {counts[most] / sizes[most]:,.0f} times in an epoch of "
            f"{sum(counts.values()):,}: lower its weight, or take out a source of little weight",
        )
    return counts


def _repeated(examples: Sequence[Example], count: int) -> list[tuple[int, Example]]:
    """`count` examples, in order and again from the first, each with the number of times it came before."""
    return [(i // len(examples), examples[i % len(examples)]) for i in range(count)]


def _of(source: str, e: Example, copy: int = 0) -> Example:
    return replace(e, id=f"{source}#{copy + 1}/{e.id}" if copy else f"{source}/{e.id}", fields={**e.fields, "source": source})
