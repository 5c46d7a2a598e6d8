"""Checks of a reward: a finite, reproducible number for any text, without delay. Model output is data and is never executed."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from align.config.schema import RewardLimits
from align.rewards import Reward, start_reward
from align.testing.findings import Finding, Kit
from align.types import Episode, Group, Prompt, Rewards
from align.workers.reward_runner import concatenate_rewards, run_rewards

KIT = Kit("reward")
PROMPTS = (
    Prompt(
        id="countdown",
        text="3,5,7,9=14:",
        token_ids=(1,),
        fields={"skill": "countdown", "numbers": [3, 5, 7, 9], "target": 14, "answer": "9+7+3-5"},
    ),
    Prompt(id="sort", text="s7,3,5,1,9:", token_ids=(1,), fields={"skill": "sort", "numbers": [7, 3, 5, 1, 9], "answer": "1,3,5,7,9"}),
)
"""Prompts of the embedded task; a reward for another task needs its own prompts."""
CANARY = "ALIGN_A_REWARD_RAN_THE_ANSWER"
HOSTILE = (
    "",
    " \n\t",
    "9+7+3-5",
    "1,3,5,7,9",
    "14",
    "9" * 5000,
    "9**9**6",
    "1/0",
    "(" * 3000,
    "[" * 3000 + "]" * 3000,
    "-" * 3000 + "1",
    "nan",
    "1e999",
    "\x00\x07",
    "\ud800",
    "١٢٣",
    "🙂" * 200,
    "{}" * 100,
    "\\boxed{14}" * 50,
    "a" * 30 + "!",
    f"__import__('os').environ.update({CANARY}='1')",
    f"import os; os.environ['{CANARY}'] = '1'",
)
"""Hostile answers that a trained policy may write."""
LIMITS = RewardLimits(seconds=1.0)


def check_reward(part: Any, /, prompts: Sequence[Prompt] = PROMPTS, **keys: Any) -> list[Finding]:
    """Run every check of a reward, given by name, as a class with keys, or built. `prompts`: with the fields that it reads."""
    return KIT.run(part, keys, prompts=prompts)


def group(prompt: Prompt, *texts: str) -> Group:
    return Group(prompt=prompt, episodes=tuple(Episode.single_turn(np.array([1], dtype=np.int32), text) for text in texts))


def answers(prompt: Prompt) -> list[str]:
    """Every hostile answer, and the correct one if the prompt has it."""
    own = prompt.fields.get("answer")
    return [*HOSTILE, *([own] if isinstance(own, str) else [])]


def judged(r: Reward, prompts: Sequence[Prompt]) -> Iterator[tuple[str, Rewards]]:
    """Every answer separately, with its rewards as a run computes them."""
    for prompt in prompts:
        for text in answers(prompt):
            yield text, run_rewards(r, LIMITS, [group(prompt, text)])


@KIT.check("a number", "return a float, a dict of floats with the key `total`, or Stepwise, for any text; otherwise a run drops the sample")
def _number(r: Reward, prompts: Sequence[Prompt]) -> str | None:
    """a finite float, or named parts with the reward as `total`, for correct answers and any other text"""
    failures = ((text, rewards.first_failure) for text, rewards in judged(start_reward(r), prompts) if rewards.first_failure is not None)
    return next((f"{text[:40]!r}: {why}" for text, why in failures if "took longer" not in why), None)


@KIT.check("soon", "bound the work by the length of the answer, and reject answers that are too long")
def _soon(r: Reward, prompts: Sequence[Prompt]) -> str | None:
    """no answer takes a second"""
    failures = ((text, rewards.first_failure) for text, rewards in judged(start_reward(r), prompts) if rewards.first_failure is not None)
    return next((f"{text[:40]!r}: {why}" for text, why in failures if "took longer" in why), None)


@KIT.check("repeats", "keep no state between answers, and draw no random numbers")
def _repeats(r: Reward, prompts: Sequence[Prompt]) -> str | None:
    """the same answer always has the same reward"""
    fresh = start_reward(r)
    one, two = (
        [
            (rewards.values.tobytes(), {k: v.tobytes() for k, v in rewards.parts.items()}, rewards.step_rewards)
            for _, rewards in judged(fresh, prompts)
        ]
        for _ in range(2)
    )
    return None if one == two else "it changes"


@KIT.check("runs no answer", "parse the answer; never eval, exec, import or unpickle it")
def _data(r: Reward, prompts: Sequence[Prompt]) -> str | None:
    """Python code in an answer is not executed"""
    os.environ.pop(CANARY, None)
    list(judged(start_reward(r), prompts))
    return "it was" if os.environ.pop(CANARY, None) else None


@KIT.check("leaves the prompt alone", "copy a field before changing it: all answers of a group share it")
def _prompt(r: Reward, prompts: Sequence[Prompt]) -> str | None:
    """the fields of the prompt do not change"""
    kept = copy.deepcopy([dict(p.fields) for p in prompts])
    list(judged(start_reward(r), prompts))
    return next((f"those of {p.id} have changed" for p, fields in zip(prompts, kept, strict=True) if dict(p.fields) != fields), None)


@KIT.check("together", "return from score_groups one entry for each episode, in order, independent of the other episodes")
def _together(r: Reward, prompts: Sequence[Prompt]) -> str | None:
    """an answer has the same reward alone and among others, to five digits"""
    fresh = start_reward(r)
    alone = concatenate_rewards([rewards for _, rewards in judged(fresh, prompts)])
    among = run_rewards(fresh, LIMITS, [group(prompt, *answers(prompt)) for prompt in prompts])
    if among.failed != alone.failed:
        return f"{among.failed} answers fail instead of {alone.failed}: {among.first_failure}"
    differing = [
        name
        for name, one in {"total": alone.values, **alone.parts}.items()
        if not np.allclose(one, {"total": among.values, **among.parts}[name], rtol=1e-5, atol=1e-5, equal_nan=True)
    ]
    differing += ["what its steps have"] if among.step_rewards != alone.step_rewards else []
    return f"{', '.join(differing)} differs" if differing else None
