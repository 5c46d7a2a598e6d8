"""What each step learns from: a function of the seed and the step alone, so a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from align.errors import RecipeError, UserError
from align.tasks import Example, Task
from align.types import Group, Prompt, Rollout


def tokenize(examples: Sequence[Example], tokenizer: Any) -> list[Prompt]:
    """The tokenizer's own special tokens around a prompt (a leading <bos>, say) are kept, a closing <eos> is not."""
    encoded = tokenizer([e.text for e in examples])["input_ids"]
    end = tokenizer.eos_token_id
    return [Prompt(id=e.id, text=e.text, token_ids=tuple(ids[:-1] if ids and ids[-1] == end else ids), fields=e.fields)
            for e, ids in zip(examples, encoded, strict=True)]


def chosen(step: int, count: int, total: int, seed: int) -> list[int]:
    """Indices of the examples of a step: permutations of the whole set one after the other, each from its own seed."""
    first = step * count
    indices = []
    for position in range(first, first + count):
        epoch, offset = divmod(position, total)
        indices.append(int(_permutation(epoch, total, seed)[offset]))
    return indices


_last: dict[tuple[int, int, int], np.ndarray] = {}


def _permutation(epoch: int, total: int, seed: int) -> np.ndarray:
    key = (epoch, total, seed)
    if key not in _last:
        _last.clear()
        _last[key] = np.random.default_rng([seed, epoch]).permutation(total)
    return _last[key]


class Examples:
    """The training examples of a task, tokenized, dealt out step by step."""

    def __init__(self, task: Task, tokenizer: Any, per_step: int, seed: int):
        self.examples = list(task.examples())
        if not self.examples:
            raise RecipeError("task", "gives no examples to train on")
        self._tokenizer, self._per_step, self._seed = tokenizer, per_step, seed
        self._prompts = tokenize(self.examples, tokenizer)
        self.max_prompt_tokens = max(len(p.token_ids) for p in self._prompts)

    def _deal(self, step: int) -> list[int]:
        return chosen(step, self._per_step, len(self.examples), self._seed)

    def prompts(self, step: int) -> list[Prompt]:
        """The prompts of a step, from 0."""
        return [self._prompts[i] for i in self._deal(step)]

    def demonstrations(self, step: int) -> list[Group]:
        """The prompts of a step with their demonstrated answers, closed by the end token. Raises UserError where one has none."""
        indices = self._deal(step)
        missing = next((self.examples[i].id for i in indices if self.examples[i].answer is None), None)
        if missing is not None:
            raise UserError(f"task: example {missing} has no answer; demonstrations are needed to imitate")
        answers = self._tokenizer([self.examples[i].answer for i in indices], add_special_tokens=False)["input_ids"]
        return [
            Group(prompt=self._prompts[i], rollouts=(Rollout(
                token_ids=np.array([*ids, self._tokenizer.eos_token_id], dtype=np.int32), text=self.examples[i].answer),))
            for i, ids in zip(indices, answers, strict=True)
        ]
