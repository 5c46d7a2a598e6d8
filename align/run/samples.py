"""`samples.parquet` of a run: prompts and answers, with what the reward and each regularizer made of every token.

It is a folder with a file for each record, which pandas, polars, DuckDB and `datasets` read as one table. Every file has the columns of
`SCHEMA`, whatever the recipe, so tables of several runs can be joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from align.config.schema import Recipe
from align.disk import writing
from align.experience.packing import kept_episodes
from align.learner.token_penalties import TokenPenalties
from align.run.transcript import transcript
from align.telemetry.units import show
from align.types import Group, Rewards, TokenBatch
from align.vocabulary.answer_text import AnswerText
from align.workers import LearnerLike

FOLDER = "samples.parquet"
TRAINING, HELD_OUT = "training", "held_out"
TEXT = 100
"""Characters of a prompt and of its answer in a printed line."""
FLOATS, BY_NAME = pa.list_(pa.float32()), pa.map_(pa.string(), pa.float32())
SCHEMA = pa.schema(
    [
        ("step", pa.int64()),  # updates before the answer was drawn
        ("split", pa.string()),  # `training`, or the name of a held-out suite
        ("prompt_id", pa.string()),
        ("answer", pa.int64()),  # index among the prompt's answers; of a ranking 0 is the best
        ("prompt", pa.string()),
        ("response", pa.string()),  # of an episode every turn, each behind its role in brackets
        ("finished", pa.bool_()),  # False: cut at the length limit
        ("length", pa.int64()),  # trained tokens
        ("version", pa.int64()),  # of the weights that drew the first token; null for data
        ("reward", pa.float32()),  # null: failed, or there is none
        ("reward_parts", BY_NAME),
        ("beta", BY_NAME),  # by regularizer, with this answer's multiplier
        ("tokens", pa.list_(pa.string())),
        ("advantage", FLOATS),  # by token, with shapings; penalties in the reward are not yet taken from it
        ("logp", FLOATS),  # nats, at the policy before the update
        ("sampler_logp", FLOATS),
        ("log_ratio", pa.map_(pa.string(), FLOATS)),  # log pi/ref in nats, by regularizer
        ("divergence", pa.map_(pa.string(), FLOATS)),  # the regularizer's value in nats; beta times it is its price
    ]
)
"""The columns. Lists have one entry for each trained token."""

Row = dict[str, Any]
"""One answer: values of `SCHEMA` by column."""


class SampleLog:
    """Keeps the answers of the steps that `samples.every` names."""

    def __init__(self, run_dir: Path, recipe: Recipe, text: AnswerText, first_step: int):
        """Args: first_step: where the run starts or resumes; records from there on are deleted, because they are made again."""
        self._folder, self._recipe, self._text = run_dir / FOLDER, recipe, text
        with writing(self._folder):
            again = [file for step, file in records(self._folder, TRAINING).items() if step >= first_step]
            again += [file for step, file in records(self._folder, HELD_OUT).items() if step > first_step]
            for file in again:
                file.unlink()

    def of_step(self, step: int, groups: Sequence[Group], rewards: Rewards | None, batch: TokenBatch, learner: LearnerLike) -> list[Row]:
        """Record a prepared batch before its update, if `samples.every` names its step. Returns the rows, or none. Raises WriteFailed."""
        every = self._recipe.samples.every
        if not every or step % every:
            return []
        groups = groups[: self._recipe.samples.prompts]
        rows = list(_answers(step, TRAINING, groups, rewards, self._text))
        kept = [rows[i] for i in kept_episodes(len(batch.lengths) if rewards is None else len(rewards.values), rewards) if i < len(rows)]
        if kept:
            part = batch.select(torch.arange(len(kept)))
            self._add_tokens(kept, part, None if self._recipe.algorithm.trains_reward_model else learner.token_penalties(part))
        self._write(TRAINING, step, rows)
        return rows

    def held_out(self, step: int, suite: str, groups: Sequence[Group], rewards: Rewards | None) -> None:
        """Record all answers to a suite of held-out problems, after `step` updates. Raises WriteFailed."""
        if self._recipe.samples.every:
            self._write(HELD_OUT, step, list(_answers(step, suite, groups, rewards, self._text)))

    def _add_tokens(self, rows: Sequence[Row], batch: TokenBatch, found: TokenPenalties | None) -> None:
        """Add the columns by token. Args: rows: of the sequences of `batch`."""
        lengths = batch.lengths.tolist()
        given = {"advantage": batch.advantages, "sampler_logp": batch.sampler_logp, "logp": None if found is None else found.logp}
        columns = {name: tensor.split(lengths) for name, tensor in given.items() if tensor is not None}
        ids, log_ratio, divergence = batch.tokens.split(lengths), {}, {}
        if found is not None:
            log_ratio = {name: tensor.split(lengths) for name, tensor in found.log_ratio.items()}
            divergence = {name: tensor.split(lengths) for name, tensor in found.divergence.items()}
        for i, row in enumerate(rows):
            row |= {name: parts[i].tolist() for name, parts in columns.items()}
            row["tokens"] = self._text.pieces(ids[i].tolist())
            row["log_ratio"] = {name: parts[i].tolist() for name, parts in log_ratio.items()}
            row["divergence"] = {name: parts[i].tolist() for name, parts in divergence.items()}
            row["beta"] = {
                name: beta * float(batch.multipliers[name][i]) if name in batch.multipliers else beta for name, beta in batch.betas.items()
            }

    def lines(self, rows: Sequence[Row]) -> Iterator[str]:
        """Of a record, one line for each of `samples.printed` answers: alternately the one with the highest and the lowest reward."""
        left = sorted(rows, key=lambda row: (row["reward"] is not None, row["reward"] or 0.0))
        for number in range(min(self._recipe.samples.printed, len(left))):
            row = left.pop(0 if number % 2 else -1)
            reward = "" if row["reward"] is None else f"  reward {show('reward', row['reward'])}"
            yield f"step {row['step']} wrote{reward}  {_short(row['prompt'])!r} -> {_short(row['response'])!r}"

    def _write(self, kind: str, step: int, rows: Sequence[Row]) -> None:
        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)
            table = pa.Table.from_pylist(
                [{k: list(v.items()) if isinstance(v, dict) else v for k, v in row.items()} for row in rows], SCHEMA
            )
            pq.write_table(table, self._folder / f"{kind}_{step:06d}.parquet")


def _answers(step: int, split: str, groups: Sequence[Group], rewards: Rewards | None, text: AnswerText) -> Iterator[Row]:
    """A row for each episode, without the columns by token."""
    at = 0
    for group in groups:
        for number, episode in enumerate(group.episodes):
            parts = {} if rewards is None else {name: float(part[at]) for name, part in rewards.parts.items() if not np.isnan(part[at])}
            yield {
                "step": step,
                "split": split,
                "prompt_id": group.prompt.id,
                "answer": number,
                "prompt": _utf8(group.prompt.text),
                "response": _utf8(transcript(episode, text)),
                "finished": episode.finished,
                "length": episode.length,
                "version": int(episode.versions[0]) if len(episode.versions) else None,
                "reward": None if rewards is None or np.isnan(rewards.values[at]) else float(rewards.values[at]),
                "reward_parts": parts,
            }
            at += 1


def _utf8(text: str) -> str:
    """The text with what no file can hold (halves of surrogate pairs) as question marks."""
    return text.encode("utf-8", "replace").decode()


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= TEXT else f"{words[: TEXT // 2 - 2]} ... {words[-TEXT // 2 + 2 :]}"


def records(folder: Path, kind: str) -> dict[int, Path]:
    """The files of this kind by their step, ascending; files with other names are ignored."""
    named = ((file.stem.removeprefix(f"{kind}_"), file) for file in folder.glob(f"{kind}_*.parquet"))
    return dict(sorted((int(step), file) for step, file in named if step.isdecimal()))
