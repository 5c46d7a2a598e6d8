"""Generates preference data: a model's answers, ranked by a reward, as rows for the task `preferences`."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from transformers.utils import logging as transformers_logging

from align.config.nodes import build_part
from align.config.schema import Recipe
from align.errors import UserError
from align.experience import judged_rows, task_data
from align.experience.examples import example_indices, tokenize
from align.experience.limits import fit_prompts
from align.run.initial_policy import model_folder
from align.tasks import Example
from align.telemetry import note
from align.train import train
from align.types import Group
from align.vocabulary.files import load_tokenizer
from align.vocabulary.model_folder import checked
from align.workers import open_workers

NAMES = ("id", "prompt", "chosen", "rejected", "answers")
REWARDS = ("chosen_reward", "rejected_reward", "rewards")


class Scored(NamedTuple):
    text: str
    reward: float
    tokens: int
    """Number of tokens, end token included."""


@dataclass(kw_only=True)
class Drawn:
    """Counts of prompts and answers by outcome."""

    rankings: bool
    prompts: int = 0
    answers: int = 0
    cut: int = 0
    """Answers cut at the length limit; an added end token would make them different from the model's answers."""
    blank: int = 0
    failed: int = 0
    """Other answers without a reward; the first reason is `first_failure`."""
    first_failure: str | None = None
    repeated: int = 0
    """Answers with the same text as an earlier answer to the prompt."""
    few: int = 0
    """Prompts with fewer than two usable answers."""
    even: int = 0
    """Prompts whose usable answers, two or more, all have the same reward."""
    best: list[Scored] = field(default_factory=list)
    """For each row, the chosen answer or the first of the ranking."""
    worst: list[Scored] = field(default_factory=list)

    def usable(self, group: Group, rewards: np.ndarray) -> list[Scored]:
        """The answers that a row can use, in the order they were drawn. Counts the others."""
        found: dict[str, Scored] = {}
        for episode, reward in zip(group.episodes, rewards, strict=True):
            if not episode.finished:
                self.cut += 1
            elif not episode.text.strip():
                self.blank += 1
            elif np.isnan(reward):
                self.failed += 1
            elif episode.text in found:
                self.repeated += 1
            else:
                # The shortest decimal that rounds to this float32.
                found[episode.text] = Scored(episode.text, float(str(reward)), episode.length)
        self.prompts, self.answers = self.prompts + 1, self.answers + len(group.episodes)
        return list(found.values())

    def keep(self, answers: Sequence[Scored]) -> None:
        self.best.append(answers[0])
        self.worst.append(answers[-1])

    def tables(self) -> Iterator[Table]:
        counts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        counts.add_column()
        counts.add_column(justify="right")
        rows = {
            "rankings" if self.rankings else "pairs": len(self.best),
            "prompts": self.prompts,
            "  without a difference in reward": self.even,
            "  with fewer than two usable answers": self.few,
            "answers": self.answers,
            "  cut at the length limit, left out": self.cut,
            "  empty, left out": self.blank,
            "  repeated for the same prompt, left out": self.repeated,
            "  whose reward failed, left out": self.failed,
        }
        for label, count in rows.items():
            counts.add_row(label, str(count))
        yield counts
        means = Table(
            "mean", *(("best", "worst") if self.rankings else ("chosen", "rejected")), box=None, padding=(0, 2, 0, 0), header_style="dim"
        )
        means.add_row("reward", *(f"{np.mean([a.reward for a in side]):.4g}" for side in (self.best, self.worst)))
        means.add_row("length, tokens", *(f"{np.mean([a.tokens for a in side]):.4g}" for side in (self.best, self.worst)))
        yield means


def draw(
    recipe: Recipe,
    out: Path,
    *,
    prompts: int | None = None,
    samples: int | None = None,
    model: Path | None = None,
    reward: str | None = None,
    per_prompt: int = 1,
    rankings: bool = False,
    seed: int | None = None,
    address: str | None = None,
) -> Drawn:
    """Draw answers to a recipe's training prompts and write pairs or rankings by its reward as JSONL, atomically.

    The same recipe, model and seed give the same bytes. A pair is drawn uniformly from a prompt's pairs with different texts and rewards;
    a ranking has one answer for each reward, drawn uniformly from the answers with that reward.
    Args: prompts: their number, drawn by the seed, None for all; samples: answers to each, None for `batch.samples`; model: a folder
    instead of the recipe's initial policy; reward: a name instead of the recipe's; per_prompt: most pairs of a prompt; seed: None for the
    recipe's; address: of a Ray cluster.
    Raises: UserError, also if there is nothing to write.
    """
    samples = recipe.batch.samples if samples is None else samples
    seed = recipe.seed if seed is None else seed
    if rankings and per_prompt != 1:
        raise UserError("--per-prompt changes nothing with --rankings, which writes one row a prompt")
    if samples < 2:
        raise UserError("a single answer cannot be compared: give --samples 2 or more")
    recipe = _drawing(recipe, reward)
    examples = _asked(judged_rows.examples(recipe), prompts, seed)
    drawn, lines = Drawn(rankings=rankings), []
    unfinished = _reserve(out)
    try:
        with tempfile.TemporaryDirectory() as folder:
            model_dir = _model(recipe, model, Path(folder))
            for example, group, rewards in _answered(recipe, examples, samples, seed, model_dir, address, drawn):
                answers = drawn.usable(group, rewards)
                rows = list(_rows(answers, per_prompt, rankings, random.Random(f"{seed} {example.id}")))
                drawn.few += len(answers) < 2
                drawn.even += len(answers) >= 2 and not rows
                for i, row in enumerate(rows, start=1):
                    drawn.keep(row)
                    name = example.id if per_prompt == 1 else f"{example.id}-{i}"
                    lines.append(json.dumps(_row(example, name, row, rankings), ensure_ascii=False) + "\n")
        if not drawn.best:
            raise UserError(
                f"{out} was not written: no prompt has two answers with different rewards. Of {drawn.prompts} prompts, "
                f"{drawn.even} have equal rewards and {drawn.few} fewer than two usable answers; of {drawn.answers} answers, "
                f"{drawn.cut} were cut, {drawn.blank} empty, {drawn.repeated} repeated, {drawn.failed} without a reward"
                f"{f' ({drawn.first_failure})' if drawn.first_failure else ''}. More --samples, a higher sampling.temperature "
                "or sampling.max_tokens, or a reward with finer grades is the usual remedy"
            )
        unfinished.write_text("".join(lines), encoding="utf-8", newline="\n")
        os.replace(unfinished, out)
    finally:
        unfinished.unlink(missing_ok=True)
    return drawn


def _drawing(recipe: Recipe, reward: str | None) -> Recipe:
    """The recipe without parts that only training needs or checks: regularizers, shapings, an algorithm that draws no answers."""
    judge = recipe.reward if reward is None else build_part("reward", reward, "--reward")
    if judge is None:
        raise UserError("the recipe names no reward to compare answers by: give --reward NAME")
    if recipe.environment is not None:
        raise UserError("environment: a pair has answers of one turn, and no place for what an environment says: set environment=null")
    return replace(recipe, reward=judge, regularizers={}, shapings={}, algorithm=build_part("algorithm", "grpo", "algorithm"))


def _asked(examples: list[Example], prompts: int | None, seed: int) -> list[Example]:
    if prompts is not None:
        if prompts > len(examples):
            raise UserError(f"--prompts {prompts}: the task has {len(examples)} training prompts")
        examples = [examples[i] for i in sorted(example_indices(0, prompts, len(examples), seed))]
    for example in examples:
        taken = [name for name in NAMES if name in example.fields]
        if taken:
            raise UserError(f"{example.place}: its field {taken[0]!r} is what a pair calls its own; give it another name")
    return examples


def _model(recipe: Recipe, model: Path | None, run_dir: Path) -> str:
    if model is None:
        return model_folder(recipe, run_dir, train, note)
    if not (model / "config.json").is_file():
        raise UserError(f"{model} holds no model (no config.json); give --model the folder of one")
    return str(model.resolve())


def _answered(
    recipe: Recipe, examples: Sequence[Example], samples: int, seed: int, model_dir: str, address: str | None, drawn: Drawn
) -> Iterator[tuple[Example, Group, np.ndarray]]:
    """Each example with its answers and their rewards (NaN for a failed one), in batches of the recipe's size."""
    transformers_logging.disable_progress_bar()
    tokenizer = load_tokenizer(model_dir)
    examples, asked, cut = fit_prompts(recipe.task, examples, tokenize(examples, tokenizer), tokenizer)
    for line in (*checked(model_dir, tokenizer), *task_data.notes(recipe.task), *cut):
        note(line)
    workers = open_workers(recipe, model_dir, max(len(p.token_ids) for p in asked), address, learns=False)
    columns = (TextColumn("prompts"), MofNCompleteColumn(), TextColumn("{task.fields[rows]} rows"), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task("", total=len(examples), rows=0)
            for step, first in enumerate(range(0, len(examples), recipe.batch.prompts)):
                groups = workers.generate(asked[first : first + recipe.batch.prompts], samples, seed * 1_000_003 + step)
                rewards = workers.compute_rewards(groups)
                drawn.first_failure = drawn.first_failure or rewards.first_failure
                yield from zip(examples[first : first + len(groups)], groups, rewards.values.reshape(len(groups), samples), strict=True)
                progress.update(bar, advance=len(groups), rows=len(drawn.best))
    finally:
        workers.close()


def _rows(answers: Sequence[Scored], per_prompt: int, rankings: bool, rng: random.Random) -> Iterator[list[Scored]]:
    """Rows of answers with strictly decreasing rewards."""
    if rankings:
        rewards = sorted({a.reward for a in answers}, reverse=True)
        if len(rewards) > 1:
            yield [rng.choice([a for a in answers if a.reward == reward]) for reward in rewards]
        return
    differing = [[a, b] for a, b in permutations(answers, 2) if a.reward > b.reward]
    yield from rng.sample(differing, min(per_prompt, len(differing)))


def _row(example: Example, name: str, answers: Sequence[Scored], rankings: bool) -> dict[str, Any]:
    asked = {"id": name, "prompt": list(example.messages) or example.text}
    if rankings:
        told = {"answers": [a.text for a in answers], "rewards": [a.reward for a in answers]}
    else:
        better, worse = answers
        told = {"chosen": better.text, "rejected": worse.text, "chosen_reward": better.reward, "rejected_reward": worse.reward}
    # Drop reward fields of an earlier file of pairs, which belong to other answers.
    return asked | told | {k: v for k, v in example.fields.items() if k not in REWARDS}


def _reserve(out: Path) -> Path:
    """An empty temporary file beside `out`, renamed when complete. Raises UserError before any answer is drawn."""
    if out.exists():
        raise UserError(f"{out} exists: choose another file with --out, or delete it")
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from error
    return unfinished
