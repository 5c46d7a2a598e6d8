"""Runs rewards. A reward that raises, hangs or returns nonsense loses its own sample and does not stop the run."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from math import fsum
from typing import Any

import numpy as np

from align.config import parts
from align.config.schema import RewardLimits
from align.rewards import Reward, Stepwise
from align.types import Episode, Group, Prompt, Rewards
from align.workers.deadline import Deadline
from align.workers.limited import failure_text, limited, limited_calls

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one answer. `value` is None if the reward failed; `failure` is then the reason."""

    value: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    step_rewards: tuple[tuple[int, float], ...] = ()
    turn_rewards: tuple[float, ...] = ()
    failure: str | None = None


def run_rewards(reward: Reward, limits: RewardLimits, groups: Sequence[Group]) -> Rewards:
    """A reward for each episode, in order; NaN or `limits.failure_score` if it failed.

    A batched reward gets all answers in one call, with the summed time limit. A reward may have time limits of its own within it, by any
    signal but `deadline.SIGNAL`. See `align.workers.deadline` for what the limit interrupts.
    What an environment gave for the turns of an episode is added. An episode whose environment failed is not judged: its reward failed.
    Raises UserError outside the main thread, because only the main thread gets signals, and RunStopped where a reward raises it: what it
    needs is gone for every answer.
    """
    with limited_calls() as deadline:
        sound = _without_failed(groups)
        judged = iter(
            _together(reward, limits, deadline, sound)
            if reward.batched
            else [_judge(reward, limits, deadline, g.prompt, e.text) for g in sound for e in g.episodes]
        )
    rows = [(g.prompt.id, e, _environment_failure(e)) for g in groups for e in g.episodes]
    return _collect([_with_turns(next(judged), e) if why is None else Outcome(failure=f"prompt {i}: {why}") for i, e, why in rows], limits)


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
        turn_rewards=tuple(chain.from_iterable(s.turn_rewards for s in shards)),
        failed=sum(s.failed for s in shards),
        first_failure=next((s.first_failure for s in shards if s.first_failure is not None), None),
    )


def _environment_failure(episode: Episode) -> str | None:
    return None if episode.played is None else episode.played.failure


def _without_failed(groups: Sequence[Group]) -> Sequence[Group]:
    """The groups without the episodes whose environment failed."""
    if all(_environment_failure(e) is None for g in groups for e in g.episodes):
        return groups
    left = (replace(g, episodes=tuple(e for e in g.episodes if _environment_failure(e) is None)) for g in groups)
    return [g for g in left if g.episodes]


def _with_turns(outcome: Outcome, episode: Episode) -> Outcome:
    """The outcome of an answer with what its environment gave added to it."""
    given = () if episode.played is None else episode.played.rewards
    if outcome.value is None or all(reward is None for reward in given):
        return outcome
    paid = tuple(reward or 0.0 for reward in given)
    own = outcome.parts or {"outcome": outcome.value}
    return replace(outcome, value=outcome.value + fsum(paid), parts=own | {ENVIRONMENT: fsum(paid)}, turn_rewards=paid)


def _judge(reward: Reward, limits: RewardLimits, deadline: Deadline, prompt: Prompt, response: str) -> Outcome:
    answer, problem = limited(lambda: reward.score(prompt, response), reward, limits.seconds, deadline)
    return _outcome(answer, reward, prompt, response) if problem is None else Outcome(failure=f"prompt {prompt.id}: {problem}")


def _together(reward: Reward, limits: RewardLimits, deadline: Deadline, groups: Sequence[Group]) -> list[Outcome]:
    asked = [(g.prompt, e.text) for g in groups for e in g.episodes]
    if not asked:
        return []
    answers, problem = limited(lambda: list(reward.score_groups(groups)), reward, limits.seconds * len(asked), deadline)
    if problem is None and len(answers) != len(asked):
        problem = f"score_groups returned {len(answers)} rewards for {len(asked)} answers ({parts.location(type(reward))})"
    if problem is not None:
        return [Outcome(failure=f"prompt {p.id}: {problem}, and with it {len(asked)} answers") for p, _ in asked]
    return [_outcome(answer, reward, *one) for answer, one in zip(answers, asked, strict=True)]


def _outcome(answer: Any, reward: Reward, prompt: Prompt, response: str) -> Outcome:
    try:
        if isinstance(answer, Exception):
            raise answer
        return _read(answer, response)
    except BadAnswer as error:
        problem = f"{error} ({parts.location(type(reward))})"
    except Exception as error:
        problem = failure_text(error, reward)
    return Outcome(failure=f"prompt {prompt.id}: {problem}")


class BadAnswer(Exception):
    """A reward returned something that is not a reward."""


ENVIRONMENT = "environment"
"""The part of a reward that an environment gave."""
OURS = {"mean", "std", "failed", ENVIRONMENT}
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


def _collect(outcomes: Sequence[Outcome], limits: RewardLimits) -> Rewards:
    instead = np.nan if limits.on_failure == "drop" else limits.failure_score
    names = sorted({name for o in outcomes for name in o.parts})
    failures = [o.failure for o in outcomes if o.failure is not None]
    return Rewards(
        values=np.array([instead if o.value is None else o.value for o in outcomes], dtype=np.float32),
        parts={n: np.array([o.parts.get(n, np.nan) for o in outcomes], dtype=np.float32) for n in names},
        step_rewards=tuple(o.step_rewards for o in outcomes),
        turn_rewards=tuple(o.turn_rewards for o in outcomes),
        failed=len(failures),
        first_failure=failures[0] if failures else None,
    )
