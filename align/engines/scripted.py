"""Answers from a list, for tests and demonstrations: the text is fixed and the model computes its log-probs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from align.engines import RunningEngine, Sampling
from align.engines._responses import group
from align.engines.transformers import RunningTransformers, Transformers
from align.types import Group, Prompt
from align.vocabulary.continuation import Continuation


@dataclass(frozen=True, kw_only=True)
class Scripted(Transformers):
    """Each rollout takes the next text of `answers`; every batch is one unit and starts at the first text. Seeds have no effect."""

    answers: tuple[str, ...]
    """Texts. Each gets the end token (in a conversation the one that ends a turn) and is cut at sampling.max_tokens."""

    draws_otherwise = False

    def __post_init__(self):
        super().__post_init__()
        if not self.answers:
            raise ValueError("answers must hold at least one text")

    def units(self, lengths: Sequence[int], samples: int) -> list[list[int]]:
        """One unit, because the order of the prompts selects the answers."""
        return [list(range(len(lengths)))] if lengths else []

    def start(self, model_dir: str, sampling: Sampling, max_prompt_tokens: int) -> RunningEngine:
        return RunningScripted(self, model_dir, sampling, max_prompt_tokens)


class RunningScripted(RunningTransformers):
    """A model that computes the log-probs of the scripted answers."""

    _part: Scripted

    def generate(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int]) -> list[Group]:
        from align.engines._sampler import score  # noqa: PLC0415  (transformers takes seconds to import)

        limit, plain, turn = self._sampling.max_tokens, self._tokenizer.eos_token_id, self._words.ends[0]
        script, continuation = cycle(self._part.answers), Continuation(self._tokenizer)
        size = max(1, self._part.max_batch // samples)
        groups = []
        for first in range(0, len(prompts), size):
            chosen = prompts[first : first + size]
            rows = [p for p in chosen for _ in range(samples)]
            answers = continuation.many(list(zip((p.text for p in rows), islice(script, len(rows)), strict=True)))
            full = [[*ids, turn if p.messages or plain is None else plain] for p, ids in zip(rows, answers, strict=True)]
            cut = [ids[:limit] for ids in full]
            logp = score(self._model, [p.token_ids for p in rows], cut, self._sampling.temperature, self._words.spelled.logits)
            texts = self._words.text.many(cut)
            drawn = [(np.array(c, dtype=np.int32), lp.numpy(), len(f) <= limit) for c, f, lp in zip(cut, full, logp, strict=True)]
            groups += [
                group(p, drawn[i * samples : (i + 1) * samples], texts[i * samples : (i + 1) * samples], self.version)
                for i, p in enumerate(chosen)
            ]
        return groups
