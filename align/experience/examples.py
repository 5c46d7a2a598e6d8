"""The examples of each step: a function of seed and step only, so a resumed run gets the same examples."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from align.algorithms import Algorithm
from align.errors import RecipeError, UserError
from align.experience import chat_template, task_data, teacher_logp
from align.experience.demonstrated_turns import before_the_answer, longest_turn
from align.experience.drafts import with_drafts
from align.experience.limits import answer_fits, fit_prompts
from align.experience.turn_tokens import TurnTokens
from align.experience.weighted_draws import weighted_indices
from align.tasks import Example, Task
from align.types import Episode, Group, Prompt
from align.vocabulary.continuation import Continuation
from align.vocabulary.ends import turn_end

TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")
"""Columns of rows that are only read by a chat template."""

CHUNK = 1024
"""How many rows are tokenized at a time where all rows are checked."""


def tokenize(examples: Sequence[Example], tokenizer: Any) -> list[Prompt]:
    """Tokenized prompts. Special tokens that the tokenizer adds (a leading <bos>) are kept, except a closing <eos>.

    A conversation is formatted by the chat template, special tokens included, up to the start of the answer. A text that begins with the
    token that the tokenizer adds has it once. Raises UserError for a prompt without tokens.
    """
    texts = [chat_template.conversation_start(e, tokenizer) if e.messages else e.text for e in examples]
    plain = iter(_encode(tokenizer, [text for e, text in zip(examples, texts, strict=True) if not e.messages]))
    chats = iter(_encode(tokenizer, [text for e, text in zip(examples, texts, strict=True) if e.messages], add_special_tokens=False))
    prompts = []
    for e, text in zip(examples, texts, strict=True):
        ids = next(chats) if e.messages else _without_added_end(next(plain), text, tokenizer)
        ids = ids[1:] if _begins_twice(ids, tokenizer) else ids
        if not ids:
            raise UserError(
                f"{e.place}: the tokenizer makes no tokens of the prompt {text[:40]!r}, so the first token of an answer would be drawn "
                "after nothing; give it text that the tokenizer reads, or delete it"
            )
        given = chat_template.options(e, tokenizer) if e.messages else {}
        prompts.append(Prompt(id=e.id, text=text, token_ids=tuple(ids), fields=e.fields, messages=e.messages, template=given))
    return prompts


def _without_added_end(ids: list[int], text: str, tokenizer: Any) -> list[int]:
    end = tokenizer.eos_token_id
    if end is None or ids[-1:] != [end]:
        return ids
    own = text.endswith(tokenizer.eos_token) and ids[-2:] != [end, end]
    return ids if own else ids[:-1]


def _begins_twice(ids: Sequence[int], tokenizer: Any) -> bool:
    begin = tokenizer.bos_token_id
    return begin is not None and list(ids[:2]) == [begin, begin]


def _notes(examples: Sequence[Example], tokenizer: Any) -> list[str]:
    """Notes for the user on how these examples become prompts."""
    notes, begin = [], tokenizer.bos_token
    begun = [e for e in examples if begin is not None and not e.messages and e.text.startswith(begin)]
    twice = sum(_begins_twice(ids, tokenizer) for ids in _encode(tokenizer, [e.text for e in begun]))
    if twice:
        notes.append(f"task: {twice} of {len(examples)} prompts begin with {begin}, which the tokenizer adds too: they have it once")
    read = chat_template.columns(examples, tokenizer)
    if read:
        notes.append(f"task: the chat template reads {', '.join(read)} of the rows")
    plain = [e for e in examples if not e.messages]
    unread = sorted(name for name in TEMPLATE_COLUMNS if any(e.fields.get(name) for e in plain))
    if unread:
        notes.append(f"task: prompts of plain text get no chat template, so their {', '.join(unread)} reach the reward alone")
    return notes


def _encode(tokenizer: Any, texts: Sequence[str], **options: Any) -> list[list[int]]:
    return tokenizer(list(texts), **options)["input_ids"] if texts else []


def example_indices(step: int, count: int, total: int, seed: int) -> list[int]:
    """Indices of the examples of a step, from consecutive permutations of the whole set, each with its own seed."""
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
    """The tokenized training examples of a task, step by step."""

    def __init__(
        self,
        task: Task,
        tokenizer: Any,
        per_step: int,
        seed: int,
        max_tokens: int | None = None,
        examples: Sequence[Example] | None = None,
        algorithm: Algorithm | None = None,
    ):
        """Args: max_tokens: longest ranked or labelled answer, end token included. With `task.too_long: drop`, longer examples are left out
        and counted in `dropped`; otherwise they raise UserError, as does a task without examples left. examples: those that
        `task_data.examples(task)` returned, which a task may take seconds to make; None: it is asked. algorithm: what `data` is for."""
        self.examples = task_data.examples(task) if examples is None else list(examples)
        if not self.examples:
            raise RecipeError("task", "gives no examples to train on")
        self._tokenizer, self._per_step, self._seed = tokenizer, per_step, seed
        self._labels = algorithm is not None and algorithm.labels
        self._mismatched = algorithm is not None and algorithm.mismatched
        self._revision = None if algorithm is None else algorithm.revision
        self._prompts = tokenize(self.examples, tokenizer)
        self.examples, self._prompts, cut = fit_prompts(task, self.examples, self._prompts, tokenizer)
        self.dropped = 0
        if max_tokens is not None:
            groups = (labelled_groups if self._labels else ranked_groups)(self.examples, self._prompts, tokenizer)
            fitting = fit_max_tokens(task, groups, self.examples, max_tokens)
            self.dropped = len(fitting) - sum(fitting)
            self._keep(fitting)
        if self._mismatched and len({p.token_ids for p in self._prompts}) < 2:
            raise RecipeError(
                "task",
                "every example has the same prompt, and the algorithm estimates KL(pi||ref) by answers to other prompts: add examples of "
                "another prompt, or use algorithm: bco, which compares with none",
            )
        self.conversations = any(e.messages for e in self.examples)
        self.notes = [*cut, *_notes(self.examples, tokenizer)]
        """Lines for the user."""
        self.max_prompt_tokens = max(len(p.token_ids) for p in self._prompts)

    def turn_note(self, role: str) -> str:
        """How the turns of an environment with this role are written. Raises UserError where the chat template writes none."""
        chat = next((p for p in self._prompts if p.messages), None)
        if chat is None:
            return "environment: the prompts are plain text, so its turns are added as they are; an assistant turn ends with the end token"
        opening, closes = TurnTokens(self._tokenizer, role).markers(chat)
        return f"environment: the chat template writes its turns as {opening.text + '...' + closes.text!r}"

    def _step_indices(self, step: int) -> list[int]:
        return example_indices(step, self._per_step, len(self.examples), self._seed)

    @property
    def prompt_ids(self) -> list[str]:
        """The ids of all prompts."""
        return [p.id for p in self._prompts]

    def prompts(self, number: int, weights: np.ndarray | None = None) -> list[Prompt]:
        """The prompts of a round, from 0. Args: weights: float64 [all prompts], by which they are drawn; None: consecutive permutations."""
        if weights is None:
            return [self._prompts[i] for i in self._step_indices(number)]
        return [self._prompts[i] for i in weighted_indices(number, self._per_step, weights, self._seed)]

    def demonstrations(self, step: int) -> list[Group]:
        """The prompts of a step with their demonstrated answers and the end token. Raises UserError if an example has no answer."""
        shown = [(self.examples[i], self._prompts[i], _demonstrated_answer(self.examples[i])) for i in self._step_indices(step)]
        return [Group(prompt=p, episodes=(answer,)) for (_, p, _), answer in zip(shown, _answers(shown, self._tokenizer), strict=True)]

    def demand_demonstrations(self, row_fields: Collection[str] = ()) -> None:
        """Raises UserError if any example has no answer, or lacks one of `row_fields`, before a step deals it."""
        for e in self.examples:
            _demonstrated_answer(e)
            absent = next((name for name in sorted(row_fields) if name not in e.fields), None)
            if absent is not None:
                raise UserError(f"{e.place} has no field {absent!r}, which the likelihood reads; add it, or delete the row")
        if teacher_logp.FIELD in row_fields:
            for i in range(0, len(self.examples), CHUNK):
                rows = [
                    (e, p, _demonstrated_answer(e)) for e, p in zip(self.examples[i : i + CHUNK], self._prompts[i : i + CHUNK], strict=True)
                ]
                for (e, p, _), answer in zip(rows, _answers(rows, self._tokenizer), strict=True):
                    teacher_logp.refuse(p, answer.length, e.place)

    def fit_demonstrations(self, task: Task, max_tokens: int) -> None:
        """Leaves out and notes examples with an answer beyond `max_tokens` with `task.too_long: drop`; otherwise they raise UserError."""
        fitting = []
        for i in range(0, len(self.examples), CHUNK):
            rows = zip(self.examples[i : i + CHUNK], self._prompts[i : i + CHUNK], strict=True)
            shown = [(e, p, _demonstrated_answer(e)) for e, p in rows]
            for (e, _, _), answer in zip(shown, _answers(shown, self._tokenizer), strict=True):
                fitting.append(answer_fits(task, e, "the answer", longest_turn(answer), max_tokens))
        if not any(fitting):
            raise UserError(f"task: every one of {len(fitting)} demonstrations is beyond sampling.max_tokens, {max_tokens}; raise it")
        if not all(fitting):
            count = len(fitting) - sum(fitting)
            self.notes.append(f"task: {count:,} of {len(fitting):,} demonstrations beyond sampling.max_tokens, {max_tokens}, are left out")
            self._keep(fitting)

    def _keep(self, fitting: Sequence[bool]) -> None:
        self.examples = [e for e, fit in zip(self.examples, fitting, strict=True) if fit]
        self._prompts = [p for p, fit in zip(self._prompts, fitting, strict=True) if fit]

    def rankings(self, step: int) -> list[Group]:
        """The prompts of a step with their ranked answers, best first, with end tokens. Raises UserError for fewer than two."""
        dealt = self._step_indices(step)
        return ranked_groups([self.examples[i] for i in dealt], [self._prompts[i] for i in dealt], self._tokenizer)

    def labelled(self, step: int) -> list[Group]:
        """The prompts of a step with their labelled answers. If the algorithm is `mismatched`, also with the answers of the last group
        before that has another prompt, without a label: the mean of log pi/ref over them estimates KL(pi||ref) for KTO. The first group
        follows the last one. In a step with a single prompt there are none."""
        dealt = self._step_indices(step)
        groups = labelled_groups([self.examples[i] for i in dealt], [self._prompts[i] for i in dealt], self._tokenizer)
        if not self._mismatched:
            return groups
        return [replace(g, episodes=(*g.episodes, *_unlabelled(_before(groups, i)))) for i, g in enumerate(groups)]

    def data(self, step: int, algorithm: Algorithm) -> list[Group]:
        """What an algorithm that does not sample learns from at a step."""
        if algorithm.labels:
            return self.labelled(step)
        if not algorithm.ranks:
            return self.demonstrations(step)
        return revised(self.rankings(step), [self.examples[i] for i in self._step_indices(step)], self._tokenizer, self._revision)

    def all_rankings(self, count: int) -> Iterator[list[Group]]:
        """Every ranking once, in the task's order, in lists of `count`."""
        for i in range(0, len(self.examples), count):
            examples = self.examples[i : i + count]
            yield revised(ranked_groups(examples, self._prompts[i : i + count], self._tokenizer), examples, self._tokenizer, self._revision)

    def longest_answered(self) -> tuple[int, str]:
        """Tokens of the longest prompt together with an answer from the data, its end token included, and its place; (0, "") for none."""
        longest, where, longest_answer = 0, "", 0
        for shown in self.all_rankings(CHUNK) if self._revision is not None else ():
            for g in shown:
                tokens = len(g.prompt.token_ids) + max(len(e.response_ids) for e in g.episodes)
                longest, where = max((longest, where), (tokens, f"the revisions of {g.prompt.id}"), key=lambda found: found[0])
        for i in range(0, len(self.examples), CHUNK):
            pairs = list(zip(self.examples[i : i + CHUNK], self._prompts[i : i + CHUNK], strict=True))
            rows = [(e, p, a) for e, p in pairs for a in (*e.ranked, *(() if e.answer is None else (e.answer,)))]
            for (e, p, _), episode in zip(rows, _answers(rows, self._tokenizer), strict=True):
                tokens, longest_answer = len(p.token_ids) + len(episode.response_ids), max(longest_answer, len(episode.response_ids))
                longest, where = max((longest, where), (tokens, e.place), key=lambda found: found[0])
        across = (self.max_prompt_tokens + longest_answer, "the longest prompt with the longest answer to another one")
        return max((longest, where), across, key=lambda found: found[0]) if self._mismatched else (longest, where)


def _before(groups: Sequence[Group], i: int) -> Group | None:
    """The last group before group i, around the end of the list, that has another prompt."""
    asked = groups[i].prompt.token_ids
    return next((g for g in [*groups[:i][::-1], *groups[:i:-1]] if g.prompt.token_ids != asked), None)


def _unlabelled(group: Group | None) -> tuple[Episode, ...]:
    return () if group is None else tuple(replace(e, label=None) for e in group.episodes)


def revised(groups: list[Group], examples: Sequence[Example], tokenizer: Any, revision: str | None) -> list[Group]:
    """The pairs with their answers shown again after drafts and `revision`; None: the groups as they are."""
    return groups if revision is None else with_drafts(groups, examples, tokenizer, _continuation(tokenizer), revision)


def held_out_rankings(task: Task, tokenizer: Any, max_tokens: int | None = None, revision: str | None = None) -> list[Group]:
    """The held-out rankings of a task, best first; empty if it has none. `max_tokens`, `revision`: as in `Examples`."""
    examples = task_data.rankings(task)
    if not examples:
        return []
    examples, prompts, _ = fit_prompts(task, examples, tokenize(examples, tokenizer), tokenizer, "held-out prompts")
    groups = ranked_groups(examples, prompts, tokenizer)
    fit = [True] * len(groups) if max_tokens is None else fit_max_tokens(task, groups, examples, max_tokens)
    shown = revised(groups, examples, tokenizer, revision)
    return [group for group, fits_in in zip(shown, fit, strict=True) if fits_in]


def ranked_groups(examples: Sequence[Example], prompts: Sequence[Prompt], tokenizer: Any) -> list[Group]:
    """Groups with their episodes in order, best first. Raises UserError for fewer than two answers, or two with equal tokens."""
    few = next((e for e in examples if len(e.ranked) < 2), None)
    if few is not None:
        raise UserError(
            f"{few.place} has {len(few.ranked)} answers in order of preference; preferences are learned from two or more (the "
            "task `preferences` reads them, `align pairs` draws them)"
        )
    groups = _groups(examples, prompts, tokenizer)
    for e, group in zip(examples, groups, strict=True):
        if len({a.trained_ids.tobytes() for a in group.episodes}) < len(group.episodes):
            raise UserError(f"{e.place}: two answers become the same tokens, so neither can be preferred; delete the row")
    return groups


def labelled_groups(examples: Sequence[Example], prompts: Sequence[Prompt], tokenizer: Any) -> list[Group]:
    """Groups with their labelled episodes. Of a ranking the best answer is good and the others are bad. Raises UserError for no answer."""
    if (none := next((e for e in examples if not e.ranked), None)) is not None:
        raise UserError(
            f"{none.place} has no labelled answer; labelled answers are {{prompt, completion, label}} (the task `labelled` reads them) or "
            "the rows of the task `preferences`"
        )
    return [
        replace(g, episodes=tuple(replace(a, label=good) for a, good in zip(g.episodes, _goodness(e), strict=True)))
        for e, g in zip(examples, _groups(examples, prompts, tokenizer), strict=True)
    ]


def _goodness(e: Example) -> tuple[bool, ...]:
    return e.labels or (True, *(False for _ in e.ranked[1:]))


def _groups(examples: Sequence[Example], prompts: Sequence[Prompt], tokenizer: Any) -> list[Group]:
    """Each prompt with the answers in `ranked`."""
    pairs = list(zip(examples, prompts, strict=True))
    answers = iter(_answers([(e, p, answer) for e, p in pairs for answer in e.ranked], tokenizer))
    return [Group(prompt=p, episodes=tuple(next(answers) for _ in e.ranked)) for e, p in pairs]


def fit_max_tokens(task: Task, groups: Sequence[Group], examples: Sequence[Example], max_tokens: int) -> list[bool]:
    """Whether each ranking's answers fit `max_tokens`. Raises UserError for the first that does not, unless `task.too_long` is `drop`."""
    fitting = []
    for e, group in zip(examples, groups, strict=True):
        names = e.ranked_names or [f"answer {i + 1}" for i in range(len(group.episodes))]
        fits = [answer_fits(task, e, name, a.length, max_tokens) for name, a in zip(names, group.episodes, strict=True)]
        fitting.append(all(fits))
    if not any(fitting):
        raise UserError(f"task: every one of {len(fitting)} rankings has an answer beyond sampling.max_tokens, {max_tokens}; raise it")
    return fitting


def _answers(asked: Sequence[tuple[Example, Prompt, str]], tokenizer: Any) -> list[Episode]:
    texts = [chat_template.text_after(e, p.text, answer, tokenizer) if e.messages else answer for e, p, answer in asked]
    encoded = _continuation(tokenizer).many([(p.text, text) for (_, p, _), text in zip(asked, texts, strict=True)])
    close = chat_template.closer_of(tokenizer) if any(e.messages for e, _, _ in asked) else None
    ends = {turn_end(tokenizer), tokenizer.eos_token_id} - {None}
    closed = (
        _ended_once(close(ids) if close is not None and e.messages else [*ids, tokenizer.eos_token_id], ends, e.place, tokenizer)
        for (e, _, _), ids in zip(asked, encoded, strict=True)
    )
    return [_demonstrated(e, p, answer, ids, tokenizer) for (e, p, answer), ids in zip(asked, closed, strict=True)]


def _demonstrated(e: Example, prompt: Prompt, answer: str, ids: list[int], tokenizer: Any) -> Episode:
    """An answer of these tokens, behind the turns that the example has before it."""
    episode = Episode.single_turn(np.array(ids, dtype=np.int32), answer)
    return replace(episode, segments=(*before_the_answer(e, prompt, tokenizer), *episode.segments)) if e.turns else episode


def _ended_once(ids: list[int], ends: Collection[int], place: str, tokenizer: Any) -> list[int]:
    """An answer up to its first end token, because rows often contain one. Raises UserError if anything but end tokens follows it."""
    first = next((i for i, token in enumerate(ids) if token in ends), len(ids) - 1)
    if any(token not in ends for token in ids[first + 1 :]):
        raise UserError(
            f"{place}: has the end token {tokenizer.convert_ids_to_tokens(ids[first])} inside an answer, and no engine draws what "
            "follows it; take it out of the row"
        )
    return ids[: first + 1]


def _demonstrated_answer(e: Example) -> str:
    if e.answer is None:
        raise UserError(f"{e.place} has no answer; demonstrations are needed to imitate: give it one, or delete the row")
    return e.answer


@lru_cache(maxsize=4)
def _continuation(tokenizer: Any) -> Continuation:
    """The continuation of a tokenizer, made once: for a large vocabulary it takes a second."""
    return Continuation(tokenizer)
