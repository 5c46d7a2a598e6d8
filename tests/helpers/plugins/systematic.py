"""A bandit to check the loop against its closed form: one prompt, one-token answers, a reward for each token."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.engines import Engine, RunningEngine, Sampling
from align.rewards import Reward
from align.tasks import Example, Task
from align.types import Episode, Group, Prompt
from align.weight_sync.flattening import Weights, unflatten


class Systematic(Engine):
    """Draws the first token by systematic sampling: counts are within one of N * pi, so the sampling noise is 1/N."""

    def start(self, model_dir: str, sampling: Sampling, max_prompt_tokens: int) -> RunningEngine:
        return RunningSystematic(model_dir, sampling)


class RunningSystematic(RunningEngine):
    def __init__(self, model_dir: str, sampling: Sampling):
        self.model = AutoModelForCausalLM.from_pretrained(model_dir)
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self.temperature = sampling.temperature

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int]) -> list[Group]:
        groups = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            logits = self.model(torch.tensor([prompt.token_ids])).logits[0, -1]
            logp = torch.log_softmax(logits / self.temperature, -1).numpy()
            ticks = (np.arange(samples) + np.random.default_rng(seed).random()) / samples
            tokens = np.searchsorted(np.cumsum(np.exp(logp.astype(np.float64))), ticks).clip(max=len(logp) - 1)
            drawn = {
                t: Episode.single_turn(np.array([t], dtype=np.int32), self.tokenizer.decode([t]), logp[[t]], self.version, finished=False)
                for t in set(tokens.tolist())
            }
            groups.append(Group(prompt=prompt, episodes=tuple(drawn[t] for t in tokens.tolist())))
        return groups

    def load(self, version: int, weights: Weights) -> None:
        self.model.load_state_dict(dict(unflatten(weights)), strict=False)
        self.version = version


class OnePrompt(Task):
    def examples(self) -> Sequence[Example]:
        return [Example(id="0", text="1")]

    def suites(self, problems: int) -> dict[str, Sequence[Example]]:
        return {"bandit": self.examples()}

    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        return {}


class ByToken(Reward):
    """Rewards between 0 and 1.5 that follow no order."""

    def score(self, prompt: Prompt, response: str) -> float:
        return by_token(response)

    def score_groups(self, groups: Sequence[Group]) -> list[float]:
        # One time limit for a batch: a limit for each of hundreds of answers takes a fifth of a step.
        return [by_token(e.text) for g in groups for e in g.episodes]


def by_token(text: str) -> float:
    return 0.75 + 0.75 * math.sin(2.0 * sum(map(ord, text)))
