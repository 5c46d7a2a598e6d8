"""Answers of several tokens that can be enumerated: an engine that draws them systematically, and a reward for each."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from helpers.plugins.systematic import RunningSystematic

from align.engines import Engine, RunningEngine, Sampling
from align.rewards import Reward
from align.types import Episode, Group, Prompt

Scored = list[tuple[tuple[int, ...], torch.Tensor]]
"""Every answer and the log-prob of each of its tokens."""


class SystematicTree(Engine):
    """Draws whole answers by systematic sampling: counts are within one of N * pi(answer)."""

    def start(self, model_dir: str, sampling: Sampling, max_prompt_tokens: int) -> RunningEngine:
        return RunningTree(model_dir, sampling)


class RunningTree(RunningSystematic):
    def __init__(self, model_dir: str, sampling: Sampling):
        super().__init__(model_dir, sampling)
        self.depth = sampling.max_tokens

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int]) -> list[Group]:
        end = self.tokenizer.eos_token_id
        groups = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            scored = every_answer(self.model, list(prompt.token_ids), self.depth, end)
            shares = np.exp([logp.sum().item() for _, logp in scored])
            ticks = (np.arange(samples) + np.random.default_rng(seed).random()) / samples
            drawn = np.searchsorted(np.cumsum(shares), ticks).clip(max=len(scored) - 1)
            episodes = [
                Episode.single_turn(
                    np.array(ids, dtype=np.int32),
                    self.tokenizer.decode(ids, skip_special_tokens=True),
                    logp.float().numpy(),
                    self.version,
                    finished=ids[-1] == end,
                )
                for ids, logp in scored
            ]
            groups.append(Group(prompt=prompt, episodes=tuple(episodes[i] for i in drawn)))
        return groups


def every_answer(model: torch.nn.Module, prompt: list[int], depth: int, end: int) -> Scored:
    """Each answer of up to `depth` tokens, closed by `end` or cut, once."""
    words = [t for t in range(model.config.vocab_size) if t != end]
    before = list(product(words, repeat=depth - 1))
    logits = model(torch.tensor([[*prompt, *prefix] for prefix in before])).logits[:, len(prompt) - 1 :]
    table = torch.log_softmax(logits.double(), -1)
    answers = {}
    for row, prefix in enumerate(before):
        for length, last in product(range(depth), (*words, end)):
            if last == end or length == depth - 1:
                ids = (*prefix[:length], last)
                answers[ids] = table[row, range(length + 1), list(ids)]
    return list(answers.items())


class ByAnswer(Reward):
    """Rewards between 0 and 1.5 that follow no order."""

    def score(self, prompt: Prompt, response: str) -> float:
        return by_answer(response)

    def score_groups(self, groups: Sequence[Group]) -> list[float]:
        # One time limit for a batch: a limit for each of hundreds of answers takes a fifth of a step.
        return [by_answer(e.text) for g in groups for e in g.episodes]


def by_answer(text: str) -> float:
    return 0.75 + 0.75 * math.sin(2.0 * sum((i + 1) * ord(c) for i, c in enumerate(text)))
