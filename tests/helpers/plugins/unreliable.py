"""A reward and an engine that fail when the prompt's field `do` says so."""

import itertools
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from align.engines import RunningEngine, Sampling
from align.engines.transformers import RunningTransformers, Transformers
from align.errors import UserError
from align.rewards import Reward
from align.types import Group, Prompt


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


class Mortal(Transformers):
    """Its process is killed in the middle of a call that finds the file `kill_once` names, which it takes with it."""

    environment = {"ALIGN_TEST_MARK": "seen"}  # noqa: RUF012

    def start(self, model_dir: str, sampling: Sampling, max_prompt_tokens: int) -> RunningEngine:
        return RunningMortal(self, model_dir, sampling, max_prompt_tokens)


class RunningMortal(RunningTransformers):
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
        return super().generate(prompts, samples, seeds)
