from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from statistics import fmean
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from align.config.ranges import Seed
from align.tasks import Example, Task
from align.tasks._arithmetic import evaluate, right, solution, valid_answers
from align.types import Group

VOCABULARY = ("<pad>", "<bos>", "<eos>", *"0123456789+-*=:,s")
MOST_ECHOES = 5
"""Limits a demonstration to 24 tokens: 7 + 5 * 3 characters and the end token."""

Problem = tuple[str, dict[str, Any], str]
"""Text of the prompt, its fields, and one correct answer."""


@dataclass(frozen=True)
class Countdown(Task):
    """A task without downloads: reach a target from four numbers, `3,5,7,9=14:` -> `9+7+3-5`; sort digits, `s7,3,5,1,9:`.

    Countdown has several correct answers (diversity can be lost) and free length (an answer may end with echoes of the target);
    sorting is a second skill that RL does not train (it can be forgotten). A problem is a random expression with its numbers listed in
    order, so a demonstration is uniform over the correct answers to its prompt. One multiset of numbers in seven is held out of all
    training data, for every seed.
    """

    seed: Seed = 0
    """Seed of the training examples and the held-out problems."""
    size: int = 20480
    """Number of training examples."""
    demonstrations: bool = False
    """True: examples with answers, including sorting, for SFT. False: only countdown questions, for RL."""
    sort_share: float = 0.25
    """Share of sorting among the demonstrations."""
    echo_chance: float = 0.4
    """Probability that a demonstrated countdown answer has an echo of the target, and that an echo is followed by another."""
    calls: float = 0.0
    """Share of the countdown demonstrations that have a turn before the answer: a random expression of the numbers and `:`, which a
    calculator answers with its value, as in `3,5,7,9=14:` -> `9-7+3+5:` -> `=10:` -> `9+7+3-5`."""

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size must be at least 1, not {self.size}")
        shares = [f for f in fields(self) if f.name in ("sort_share", "echo_chance", "calls")]
        for f in shares:
            value = getattr(self, f.name)
            if not 0 <= value <= 1:
                raise ValueError(f"{f.name} must be between 0 and 1, not {value}")
            if not self.demonstrations and value != f.default:
                raise ValueError(f"{f.name} changes nothing without demonstrations: true")

    def examples(self) -> Sequence[Example]:
        rng = random.Random(f"{self.seed} train")
        return [self._example(rng, i) for i in range(self.size)]

    def _example(self, rng: random.Random, i: int) -> Example:
        if not self.demonstrations:
            text, asked, _ = countdown_problem(rng, False)
            return Example(id=f"train-{i}", text=text, fields=asked)
        turns: tuple[tuple[str, str], ...] = ()
        if int((i + 1) * self.sort_share) > int(i * self.sort_share):
            text, asked, answer = sort_problem(rng, False)
        else:
            text, asked, answer = countdown_problem(rng, False)
            for _ in range(MOST_ECHOES):
                if rng.random() >= self.echo_chance:
                    break
                answer += f"={asked['target']}"
            # Not `rng`, so that the other demonstrations are the same for every share.
            turns = draft(asked["numbers"], random.Random(f"{self.seed} call {i}"), self.calls)
        return Example(id=f"train-{i}", text=text, fields=asked, answer=answer, turns=turns)

    def suites(self, problems: int) -> Mapping[str, Sequence[Example]]:
        return {
            name: _suite(draw, name, problems, f"{self.seed} {name}")
            for name, draw in (("countdown", countdown_problem), ("sort", sort_problem))
        }

    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        """Means over problems with k answers each.

        `pass@1`: share of correct answers. For countdown also `pass@k`: whether any is correct; `coverage`: distinct correct answers
        over min(k, number of possible ones); `length`: tokens, end token included.
        """
        verdicts = [[right(g.prompt.fields, e.text) for e in g.episodes] for g in groups]
        metrics = {"pass@1": fmean(map(fmean, verdicts))}
        if suite == "sort":
            return metrics
        return metrics | {
            f"pass@{len(verdicts[0])}": fmean(map(any, verdicts)),
            "coverage": fmean(map(coverage, groups)),
            "length": fmean(e.length for g in groups for e in g.episodes),
        }

    def tokenizer(self) -> Any:
        """One token per character; `<bos>` before a prompt, nothing after it. Raises for an unknown character."""
        # Slow to import, and needed only for a randomly initialised model.
        from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

        tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
        tokenizer.decoder = decoders.Fuse()
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", VOCABULARY.index("<bos>"))])
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            bos_token="<bos>",
            eos_token="<eos>",
            model_input_names=["input_ids", "attention_mask"],
        )


def coverage(group: Group) -> float:
    """Distinct correct answers among k, ignoring echoes, over min(k, number of possible ones)."""
    asked = group.prompt.fields
    found = {solution(asked, e.text) for e in group.episodes} - {None}
    return len(found) / min(len(group.episodes), len(valid_answers(asked["numbers"], asked["target"])))


def held_out(numbers: Sequence[int]) -> bool:
    """Whether problems with this multiset of numbers are reserved for evaluation."""
    return _held_out(tuple(sorted(numbers)))


@cache
def _held_out(numbers: tuple[int, ...]) -> bool:
    # Not `hash`, which for strings differs between processes.
    return zlib.crc32(",".join(map(str, numbers)).encode()) % 7 == 0


def countdown_problem(rng: random.Random, test: bool) -> Problem:
    """Four numbers 1..9 and a target >= 0 that they reach with + and -; `test` draws from the held-out multisets."""
    while True:
        numbers = rng.choices(range(1, 10), k=4)
        operators = rng.choices("+-", k=3)
        target = numbers[0] + sum(n if o == "+" else -n for o, n in zip(operators, numbers[1:], strict=True))
        if target >= 0 and held_out(numbers) == test:
            break
    answer = str(numbers[0]) + "".join(f"{o}{n}" for o, n in zip(operators, numbers[1:], strict=True))
    numbers.sort()
    return f"{','.join(map(str, numbers))}={target}:", {"skill": "countdown", "numbers": numbers, "target": target}, answer


def draft(numbers: Sequence[int], rng: random.Random, chance: float) -> tuple[tuple[str, str], ...]:
    """With this probability an assistant's turn with an expression of the numbers and `:`, and the calculator's answer; else no turn."""
    if rng.random() >= chance:
        return ()
    first, *rest = rng.sample(numbers, len(numbers))
    expression = str(first) + "".join(f"{rng.choice('+-')}{n}" for n in rest)
    return ("assistant", f"{expression}:"), ("tool", f"={evaluate(expression)}:")


def sort_problem(rng: random.Random, test: bool) -> Problem:
    """Five digits to put in order; `test` draws from the held-out multisets."""
    while True:
        numbers = rng.choices(range(10), k=5)
        if held_out(numbers) == test:
            break
    text = f"s{','.join(map(str, numbers))}:"
    return text, {"skill": "sort", "numbers": numbers}, ",".join(map(str, sorted(numbers)))


@lru_cache(maxsize=8)
def _suite(draw: Callable[[random.Random, bool], Problem], name: str, problems: int, seed: str) -> tuple[Example, ...]:
    """Distinct held-out problems, of which there are thousands. A shorter suite is a prefix of a longer one."""
    rng, found = random.Random(seed), dict[str, Example]()
    for _ in range(20 * problems):
        if len(found) == problems:
            break
        text, asked, _ = draw(rng, True)
        found.setdefault(text, Example(id=f"{name}-{len(found)}", text=text, fields=asked))
    return tuple(found.values())
