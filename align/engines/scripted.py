"""Answers from a list, for tests and demonstrations: the text is fixed and the model computes its log-probs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from align.engines import Engine, RunningEngine, Sampling
from align.engines._responses import group
from align.engines.transformers import Transformers
from align.types import Group, Prompt
from align.vocabulary.continuation import Continuation
from align.weight_sync.flattening import Weights


@dataclass(frozen=True, kw_only=True)
class Scripted(Engine):
    """Each rollout takes the next text of `answers`; every batch is one unit and starts at the first text. Seeds have no effect."""

    answers: tuple[str, ...]
    """Texts. Each gets the end token (in a conversation the one that ends a turn) and is cut at sampling.max_tokens."""
    max_batch: int = 512
    """Sequences scored at once; the samples of a prompt stay together."""
    device: str = "auto"
    """A torch device; `auto` is cuda if there is one, else cpu."""

    def __post_init__(self):
        if not self.answers:
            raise ValueError("answers must hold at least one text")
        self.scorer()

    def scorer(self) -> Transformers:
        """The engine whose model computes the log-probs. Raises ValueError at a wrong `max_batch` or `device`."""
        return Transformers(max_batch=self.max_batch, device=self.device)

    def units(self, lengths: Sequence[int], samples: int) -> list[list[int]]:
        """One unit, because the order of the prompts selects the answers."""
        return [list(range(len(lengths)))] if lengths else []

    def start(self, model_dir: str, sampling: Sampling, max_prompt_tokens: int) -> RunningScripted:
        return RunningScripted(self, model_dir, sampling, max_prompt_tokens)


class RunningScripted(RunningEngine):
    """The answers, and the running engine of a model that computes their log-probs."""

    def __init__(self, part: Scripted, model_dir: str, sampling: Sampling, max_prompt_tokens: int):
        self._part, self._scorer = part, part.scorer().start(model_dir, sampling, max_prompt_tokens)

    def generate(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int]) -> list[Group]:
        limit, tokenizer, words = self._scorer.sampling.max_tokens, self._scorer.tokenizer, self._scorer.words
        plain, turn = tokenizer.eos_token_id, words.ends[0]
        script, continuation = cycle(self._part.answers), Continuation(tokenizer)
        size = max(1, self._part.max_batch // samples)
        groups = []
        for first in range(0, len(prompts), size):
            chosen = prompts[first : first + size]
            rows = [p for p in chosen for _ in range(samples)]
            answers = continuation.many(list(zip((p.text for p in rows), islice(script, len(rows)), strict=True)))
            full = [[*ids, turn if p.messages or plain is None else plain] for p, ids in zip(rows, answers, strict=True)]
            cut = [ids[:limit] for ids in full]
            logp = self._scorer.logp([p.token_ids for p in rows], cut)
            texts = words.text.many(cut)
            drawn = [(np.array(c, dtype=np.int32), lp.numpy(), len(f) <= limit) for c, f, lp in zip(cut, full, logp, strict=True)]
            groups += [
                group(p, drawn[i * samples : (i + 1) * samples], texts[i * samples : (i + 1) * samples], self.version)
                for i, p in enumerate(chosen)
            ]
        return groups

    def load(self, version: int, weights: Weights) -> None:
        self._scorer.load(version, weights)
        self.version = version

    def close(self) -> None:
        self._scorer.close()
