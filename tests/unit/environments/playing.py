"""Episodes of a recipe with an environment, played in this process by a tiny model or by an engine whose texts are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from helpers.paths import PLUGINS
from transformers import AutoTokenizer

from align.config import recipes
from align.config.schema import Recipe
from align.engines import RunningEngine
from align.environments import start_environment
from align.types import Episode, Group, Prompt
from align.weight_sync.flattening import Weights
from align.workers.turns import PlayingEngine

EVERY = f"{PLUGINS}/turns.py:Every"
PROMPTS = [Prompt(id=str(i), text=f"{i}+1=", token_ids=(3 + i, 13, 4, 16)) for i in range(6)]


def recipe(folder: Path, **keys) -> Recipe:
    """With an environment that answers every turn, and turns that often end by themselves."""
    return recipes.build(
        {
            "steps": 2,
            "task": {"name": "countdown", "size": 8},
            "algorithm": "grpo",
            "reward": "countdown_wordy",
            "model": {"path": str(folder)},
            "environment": EVERY,
            "episode": {"max_turns": 3},
            "batch": {"prompts": 4, "samples": 2},
            "sampling": {"max_tokens": 30, "temperature": 8.0},
            "workers": {"backend": "local"},
            "evaluation": {"every": -1},
        }
        | keys
    )


Says = Callable[[Prompt, int], str]
"""The text of an answer to a prompt, by its sample; one that ends with `...` is cut at the length limit."""


class Saying(RunningEngine):
    """An engine with given texts, one character a token."""

    def __init__(self, folder: Path, says: Says):
        self.tokenizer, self.says = AutoTokenizer.from_pretrained(folder), says
        self.asked: list[list[Prompt]] = []
        self.seeds: list[list[int]] = []

    def generate(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int]) -> list[Group]:
        self.asked.append(list(prompts))
        self.seeds.append(list(seeds))
        return [Group(prompt=p, episodes=tuple(self._answer(self.says(p, s)) for s in range(samples))) for p in prompts]

    def _answer(self, text: str) -> Episode:
        said, cut = text.removesuffix("..."), text.endswith("...")
        ids = np.array([*self.tokenizer(said)["input_ids"], *([] if cut else [self.tokenizer.eos_token_id])], np.int32)
        return Episode.single_turn(ids, said, np.full(len(ids), -1.5, np.float32), self.version, finished=not cut)

    def load(self, version: int, weights: Weights) -> None:
        self.version = version


def playing(folder: Path, says: Says, **keys) -> PlayingEngine:
    built = recipe(folder, **keys)
    return PlayingEngine(built, start_environment(built.environment), Saying(folder, says), str(folder))


def turns(episode: Episode) -> list[tuple[str, list[int]]]:
    return [(s.role, s.token_ids.tolist()) for s in episode.segments]
