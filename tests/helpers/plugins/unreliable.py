"""A reward and an engine that fail when the prompt's field `do` says so, and a divergence that does not."""

import itertools
import os
import signal
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from align.engines import Engine, RunningEngine, Sampling
from align.errors import UserError
from align.rewards import Reward
from align.types import Episode, Group, Prompt
from align.weight_sync.flattening import Weights


class Unreliable(Reward):
    """The length of the answer, or what `do` asks for."""

    def score(self, prompt: Prompt, response: str) -> float | dict[str, float]:
        do = prompt.fields.get("do")
        if do == "raise":
            raise KeyError("no such answer\nand a second line")
        if do == "hang":
            while True:
                self.pause()
        if do == "never return":  # C code that looks for no signals
            return sum(itertools.repeat(0))
        if do == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        order = Path(prompt.fields.get("crash_once", "/nonexistent"))
        if order.exists():
            order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"total": len(response) / 2, "length": len(response)} if do == "parts" else len(response)

    def pause(self) -> None:
        try:
            time.sleep(10)
        except Exception:
            time.sleep(10)


class Mortal(Engine):
    """Its process is killed in the middle of a call that finds the file `kill_once` names, which it takes with it.

    Its answers follow from the seed and from every byte of the weights; it starts in half the time that transformers takes to import.
    """

    @property
    def environment(self) -> dict[str, str]:
        return {"ALIGN_TEST_MARK": "seen"}

    def units(self, lengths: Sequence[int], samples: int) -> list[list[int]]:
        return [list(range(i, min(i + 2, len(lengths)))) for i in range(0, len(lengths), 2)]

    def start(self, model_dir: str, sampling: Sampling, max_prompt_tokens: int) -> RunningEngine:
        return RunningMortal((Path(model_dir) / "model.safetensors").read_bytes(), sampling.max_tokens)


class RunningMortal(RunningEngine):
    def __init__(self, weights: bytes, most: int):
        self.weights, self.most = zlib.crc32(weights), most

    def load(self, version: int, weights: Weights) -> None:
        self.weights, self.version = zlib.crc32(weights.buffer), version

    def generate(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int]) -> list[Group]:
        for prompt in prompts:
            order = Path(prompt.fields.get("kill_once", "/nonexistent"))
            if order.exists():
                order.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            order = Path(prompt.fields.get("hang_once", "/nonexistent"))
            if order.exists():
                order.unlink()
                sum(itertools.repeat(0))
            if prompt.fields.get("do") == "refuse":
                raise UserError("no room for this prompt")
            if prompt.fields.get("do") == "kill always":
                os.kill(os.getpid(), signal.SIGKILL)
        return [Group(prompt=p, episodes=self._answers(p, samples, seed)) for p, seed in zip(prompts, seeds, strict=True)]

    def _answers(self, prompt: Prompt, samples: int, seed: int) -> tuple[Episode, ...]:
        drawn = np.random.default_rng([seed, self.weights, *prompt.token_ids])
        lengths = drawn.integers(1, self.most, samples, endpoint=True).tolist()
        return tuple(
            Episode.single_turn(
                drawn.integers(3, 26, n, dtype=np.int32), "1" * n, -drawn.random(n, dtype=np.float32), self.version, finished=n < self.most
            )
            for n in lengths
        )


class Hellinger:
    """Squared Hellinger distance: f(u) = (sqrt(u) - 1)^2."""

    def f(self, log_u):
        return (log_u / 2).expm1() ** 2
