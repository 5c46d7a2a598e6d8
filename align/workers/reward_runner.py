"""Runs rewards. A reward that raises, hangs or returns nonsense loses its own sample and does not stop the run."""

from __future__ import annotations

import numbers
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import torch

from align.config import parts
from align.config.schema import RewardLimits
from align.errors import RunStopped
from align.rewards import Reward, Stepwise
from align.types import Group, Prompt, Rewards
from align.workers import deadline as limit
from align.workers.deadline import Deadline, DeadlinePassed, deadlines

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one answer. `value` is None if the reward failed; `failure` is then the reason."""

    value: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    step_rewards: tuple[tuple[int, float], ...] = ()
    failure: str | None = None


def run_rewards(reward: Reward, limits: RewardLimits, groups: Sequence[Group]) -> Rewards:
    """A reward for each episode, in order; NaN or `limits.failure_score` if it failed.

    A batched reward gets all answers in one call, with the summed time limit. A reward may have time limits of its own within it, by any
    signal but `deadline.SIGNAL`. See `align.workers.deadline` for what the limit interrupts.
    Raises UserError outside the main thread, because only the main thread gets signals, and RunStopped where a reward raises it: what it
    needs is gone for every answer.
    """
    with _own_alarms(), _own_settings(), deadlines() as deadline:
        judged = (
            _together(reward, limits, deadline, groups)
            if reward.batched
            else [_judge(reward, limits, deadline, g.prompt, e.text) for g in groups for e in g.episodes]
        )
    return _collect(judged, limits)


def failed_rewards(groups: Sequence[Group], limits: RewardLimits, reason: str) -> Rewards:
    """The rewards of groups whose worker died or was killed: all failed."""
    return _collect([Outcome(failure=f"prompt {g.prompt.id}: {reason}") for g in groups for _ in g.episodes], limits)


def concatenate_rewards(shards: Sequence[Rewards]) -> Rewards:
    """Concatenates the rewards of consecutive shards; a reward part that a shard lacks is NaN there."""
    names = sorted({name for shard in shards for name in shard.parts})
    return Rewards(
        values=np.concatenate([np.zeros(0, np.float32), *(s.values for s in shards)]),
        parts={n: np.concatenate([s.parts.get(n, np.full(len(s.values), np.nan, np.float32)) for s in shards]) for n in names},
        step_rewards=tuple(chain.from_iterable(s.step_rewards for s in shards)),
        failed=sum(s.failed for s in shards),
        first_failure=next((s.first_failure for s in shards if s.first_failure is not None), None),
    )


@contextmanager
def _own_alarms() -> Iterator[None]:
    """Lets rewards use SIGALRM in the block, and then restores the host program's own alarm with its remaining time."""
    if threading.current_thread() is not threading.main_thread():
        yield  # `deadlines` refuses it
        return
    began = time.monotonic()
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    handler = signal.getsignal(signal.SIGALRM)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if remaining:
            signal.setitimer(signal.ITIMER_REAL, max(remaining - (time.monotonic() - began), 1e-3), interval)


@contextmanager
def _own_settings() -> Iterator[None]:
    """Restores what a reward may set for the whole process: working directory, torch's default type, gradients and random state. A run
    writes to a relative folder, and the learner may be in this process."""
    folder, dtype, gradients, threads, drawn = (
        os.getcwd(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_rng_state(),
    )
    try:
        yield
    finally:
        os.chdir(folder)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_rng_state(drawn)


def _judge(reward: Reward, limits: RewardLimits, deadline: Deadline, prompt: Prompt, response: str) -> Outcome:
    answer, problem = _limited(lambda: reward.score(prompt, response), reward, limits.seconds, deadline)
    return _outcome(answer, reward, prompt, response) if problem is None else Outcome(failure=f"prompt {prompt.id}: {problem}")


def _together(reward: Reward, limits: RewardLimits, deadline: Deadline, groups: Sequence[Group]) -> list[Outcome]:
    asked = [(g.prompt, e.text) for g in groups for e in g.episodes]
    if not asked:
        return []
    answers, problem = _limited(lambda: list(reward.score_groups(groups)), reward, limits.seconds * len(asked), deadline)
    if problem is None and len(answers) != len(asked):
        problem = f"score_groups returned {len(answers)} rewards for {len(asked)} answers ({parts.location(type(reward))})"
    if problem is not None:
        return [Outcome(failure=f"prompt {p.id}: {problem}, and with it {len(asked)} answers") for p, _ in asked]
    return [_outcome(answer, reward, *one) for answer, one in zip(answers, asked, strict=True)]


def _limited(call: Callable[[], Any], reward: Reward, seconds: float, deadline: Deadline) -> tuple[Any, str | None]:
    """What a reward returned, or how it failed."""
    try:
        # The limit may pass until the inner `finally` has finished, so the outer `try` catches its exception.
        try:
            deadline.start(seconds)
            answer = call()
        finally:
            deadline.stop()
            signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm that the reward left would ring in another answer
        if deadline.passed:
            raise DeadlinePassed
        return answer, None
    except DeadlinePassed as error:
        return None, f"took longer than {seconds:g} s ({_place(error, reward)})"
    except (KeyboardInterrupt, RunStopped):
        raise
    except BaseException as error:  # libraries raise others than Exception: a panic of Rust code, a cancelled task
        return None, _failure_text(error, reward)


def _outcome(answer: Any, reward: Reward, prompt: Prompt, response: str) -> Outcome:
    try:
        if isinstance(answer, Exception):
            raise answer
        return _read(answer, response)
    except BadAnswer as error:
        problem = f"{error} ({parts.location(type(reward))})"
    except Exception as error:
        problem = _failure_text(error, reward)
    return Outcome(failure=f"prompt {prompt.id}: {problem}")


class BadAnswer(Exception):
    """A reward returned something that is not a reward."""


OURS = {"mean", "std", "failed"}
"""Names of the run's own `reward/...` metrics."""


def _read(answer: Any, response: str) -> Outcome:
    if isinstance(answer, Stepwise):
        steps = tuple(_step(step, response) for step in answer.steps)
        return replace(_read(answer.total if answer.answer is None else answer.answer, response), step_rewards=steps)
    if not isinstance(answer, dict):
        return Outcome(value=_number(answer, "returned"))
    if taken := OURS & answer.keys():
        raise BadAnswer(f"returned a part called {', '.join(sorted(taken))}, which the run's own metrics use: choose another name")
    if "total" not in answer:
        raise BadAnswer(f"returned parts without `total`, only: {', '.join(map(str, answer)) or 'none'}")
    values = {str(name): _number(value, f"returned, as {name!r},") for name, value in answer.items()}
    return Outcome(value=values.pop("total"), parts=values)


def _step(step: Any, response: str) -> tuple[int, float]:
    character, reward = step
    if not isinstance(character, numbers.Integral) or not 0 <= int(character) < len(response):
        raise BadAnswer(f"returned a step that ends at character {character!r} of {len(response)}; count them from 0")
    return int(character), _number(reward, "returned, for a step,")


def _number(value: Any, what: str) -> float:
    if not isinstance(value, numbers.Real | np.bool_):
        raise BadAnswer(f"{what} a {type(value).__name__}; a reward is a number, or named numbers with their `total`")
    if not -LARGEST <= float(value) <= LARGEST:
        raise BadAnswer(f"{what} {float(value)}, which is not a finite float32")
    return float(value)


def _failure_text(error: BaseException, reward: Reward) -> str:
    return f"{type(error).__name__}: {_one_line(str(error))} ({_place(error, reward)})"


def _one_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "(no message)"
    return line if len(line) <= 200 else line[:200] + "..."


def _place(error: BaseException, reward: Reward) -> str:
    """`file:line` of the error or timeout: the deepest frame in the reward's own file, else the deepest of all."""
    own = getattr(sys.modules.get(type(reward).__module__), "__file__", None)
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    file, line = next((f for f in reversed(frames) if f[0] == own), frames[-1])
    return parts.location(type(reward)) if file in (__file__, limit.__file__) else f"{file}:{line}"


def _collect(outcomes: Sequence[Outcome], limits: RewardLimits) -> Rewards:
    instead = np.nan if limits.on_failure == "drop" else limits.failure_score
    names = sorted({name for o in outcomes for name in o.parts})
    failures = [o.failure for o in outcomes if o.failure is not None]
    return Rewards(
        values=np.array([instead if o.value is None else o.value for o in outcomes], dtype=np.float32),
        parts={n: np.array([o.parts.get(n, np.nan) for o in outcomes], dtype=np.float32) for n in names},
        step_rewards=tuple(o.step_rewards for o in outcomes),
        failed=len(failures),
        first_failure=failures[0] if failures else None,
    )
