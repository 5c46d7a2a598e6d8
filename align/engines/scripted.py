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


@dataclass(frozen=True, kw_only=True)
class Scripted(Transformers):
    """Each rollout takes the next text of `answers`; every batch is one unit and starts at the first text. Seeds have no effect."""

    answers: tuple[str, ...]
    """Texts. Each gets the end token and is cut at sampling.max_tokens."""

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

        limit, end = self._sampling.max_tokens, self._tokenizer.eos_token_id
        script = cycle([[*self._tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in self._part.answers])
        size = max(1, self._part.max_batch // samples)
        groups = []
        for first in range(0, len(prompts), size):
            chosen = prompts[first : first + size]
            full = list(islice(script, len(chosen) * samples))
            cut = [ids[:limit] for ids in full]
            logp = score(self._model, [p.token_ids for p in chosen for _ in range(samples)], cut, self._sampling.temperature)
            texts = self._tokenizer.batch_decode(cut, skip_special_tokens=True)
            drawn = [(np.array(c, dtype=np.int32), lp.numpy(), len(f) <= limit) for c, f, lp in zip(cut, full, logp, strict=True)]
            groups += [
                group(p, drawn[i * samples : (i + 1) * samples], texts[i * samples : (i + 1) * samples], self.version)
                for i, p in enumerate(chosen)
            ]
        return groups
