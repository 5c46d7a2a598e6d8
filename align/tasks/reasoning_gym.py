from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from align.config.ranges import AtLeastOne, Seed
from align.errors import UserError
from align.tasks import Example, Task
from align.tasks._fields import refuse_idle, with_turns
from align.tasks._generators import generated, score
from align.types import Group


@dataclass(frozen=True)
class ReasoningGym(Task):
    """Problems of a generator of `reasoning_gym` (Stojanovski et al. 2025, 2505.24760), with its verifier as the reward `reasoning_gym`.

    Needs the extra `align[reasoning-gym]`. Problem i is drawn from `seed + i`; the held-out ones follow those of training, and none of them
    has the text of one. Where the generator has an answer, it is in the field `answer`, for other rewards such as `exact_match`. Raises
    UserError without the package, RecipeError for an unknown generator.
    """

    generator: str
    """The name of a generator, such as `leg_counting` or `countdown`."""
    options: dict[str, Any] | None = None
    """The generator's own options, such as `{min_animals: 3}`."""
    size: AtLeastOne = 2000
    """Training problems."""
    seed: Seed = 0
    chat: bool = True
    """Ask a problem as the user's turn, formatted by the model's chat template."""
    system: str | None = "Think step by step, then write the final answer between <answer> and </answer>."
    """The system's turn, which says how the answer is to be marked; null: none."""

    def __post_init__(self):
        if not self.chat and self.system:
            refuse_idle((), system=self.system)

    def examples(self) -> Sequence[Example]:
        return [self._example(i, self.size) for i in range(self.size)]

    def suites(self, problems: int) -> Mapping[str, Sequence[Example]]:
        trained, total = {e.text for e in self.examples()}, self.size + 10 * problems
        drawn: dict[str, Example] = {}
        for i in range(self.size, total):
            example = self._example(i, total)
            if example.text not in trained:
                drawn.setdefault(example.text, example)
            if len(drawn) == problems:
                break
        if not drawn:
            raise UserError(f"task: {self.generator} draws no problem that is not among its first {self.size}; lower task.size")
        return {self.generator: list(drawn.values())}

    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        """Means over responses: `length` in tokens, end token included, and `score` by the verifier, from 0 to 1."""
        answers = [(g.prompt.fields, e) for g in groups for e in g.episodes]
        return {"length": fmean(e.length for _, e in answers), "score": fmean(score(fields, e.text) for fields, e in answers)}

    def _example(self, index: int, size: int) -> Example:
        options = dict(self.options or {})
        item = generated(self.generator, options, size, self.seed)[index]
        asks, messages = with_turns(item["question"], (), chat=self.chat, system=self.system)
        answered = {} if item["answer"] is None else {"answer": str(item["answer"])}
        return Example(
            id=f"{self.generator}-{self.seed + index}",
            text=asks,
            messages=messages,
            answer=None if item["answer"] is None else f"<answer>{item['answer']}</answer>",
            fields={"generator": self.generator, "options": options, "size": size, "seed": self.seed, "index": index, **answered},
        )
