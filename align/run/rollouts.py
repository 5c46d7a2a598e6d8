"""The answers of a step and their rewards, with `batch.refill` from as many rounds of prompts as groups with a signal need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

from align.config.schema import Recipe
from align.experience.examples import Examples
from align.experience.signal import chosen, with_signal
from align.run.curriculum import checked_weights, curriculum_metrics
from align.run.state import RunState
from align.run.step_metrics import drawn_metrics
from align.types import Group, Prompt, Rewards
from align.workers import Workers
from align.workers.reward_runner import concatenate_rewards


@dataclass(frozen=True)
class Drawn:
    """What was drawn in a step."""

    groups: Sequence[Group]
    """The groups of the batch, which is learned from."""
    rewards: Rewards | None
    """The rewards of `groups`; None for an algorithm without rewards."""
    answered: Sequence[Group]
    """All groups that were drawn, also those that `batch.refill` left out."""
    judged: Rewards | None
    """The rewards of `answered`."""
    rounds: int
    """The number of rounds, each of `batch.prompts` prompts."""
    metrics: dict[str, float]
    """Metrics of `batch.refill` and of a curriculum; empty without them."""


Prompts = Callable[[int], list[Prompt]]
"""The prompts of a round by its number in the run."""


class Rollouts:
    """Draws the rounds of a run. A round is a function of the policy, of its number in the run and, with a curriculum, of the pass rates
    before the step, so a resumed run draws the same."""

    def __init__(
        self,
        recipe: Recipe,
        workers: Workers,
        examples: Examples,
        timed: Callable[[str], AbstractContextManager[None]],
        note: Callable[[str], None],
    ):
        self._recipe, self._workers, self._examples, self._timed, self._note = recipe, workers, examples, timed, note
        self._short = False

    def of_step(self, step: int, state: RunState) -> Drawn:
        """The rollouts of a step, which `state` records: its rounds, and with a curriculum the verdicts on its answers."""
        curriculum, rates = self._recipe.curriculum, state.pass_rates
        if curriculum is None or rates is None:
            drawn = self._drawn(step, state.rounds_before(step), self._examples.prompts)
        else:
            passed, tried = rates.before(step, self._examples.prompt_ids)
            weights = checked_weights(curriculum, passed, tried)
            drawn = self._drawn(step, state.rounds_before(step), partial(self._examples.prompts, weights=weights))
            judged = drawn.judged
            assert judged is not None  # a curriculum refuses an algorithm without rewards
            had, _ = rates.before(step, [g.prompt.id for g in drawn.answered])
            drawn = replace(drawn, metrics=drawn.metrics | curriculum_metrics(weights, tried, had))
            rates.record(step, state.step, drawn.answered, judged)
        state.drew(step, drawn.rounds)
        return drawn

    def _drawn(self, step: int, first: int, prompts: Prompts) -> Drawn:
        groups, rewards = self._round(step, first, prompts)
        if self._recipe.batch.refill is None or rewards is None:
            return Drawn(groups, rewards, groups, rewards, 1, {})
        return self._refilled(step, first, prompts, groups, rewards)

    def _refilled(self, step: int, first: int, prompts: Prompts, groups: list[Group], rewards: Rewards) -> Drawn:
        batch, rounds = self._recipe.batch, 1
        by_parts = "reward_parts" in self._recipe.algorithm.reads
        signal = with_signal(groups, rewards, by_parts)
        while sum(signal) < batch.prompts and rounds <= (batch.refill or 0):
            more, judged = self._round(step, first + rounds, prompts)
            assert judged is not None  # as of the first round
            signal += with_signal(more, judged, by_parts)
            groups, rewards, rounds = [*groups, *more], concatenate_rewards([rewards, judged]), rounds + 1
        keep = [has and count <= batch.prompts for has, count in zip(signal, accumulate(signal), strict=True)]
        self._say_if_short(step, sum(keep), rounds)
        metrics = drawn_metrics(groups, rewards, signal, keep, rounds)
        return Drawn(*chosen(groups, rewards, keep), groups, rewards, rounds, metrics)

    def _say_if_short(self, step: int, kept: int, rounds: int) -> None:
        if kept < self._recipe.batch.prompts and not self._short:
            self._short = True
            self._note(
                f"step {step}: {rounds} round{'s' if rounds > 1 else ''} of prompts had {kept} groups with a signal, fewer than "
                f"batch.prompts {self._recipe.batch.prompts}: the step learns from those alone. This is said once; groups/kept and "
                "groups/rounds count on"
            )

    def _round(self, step: int, number: int, prompts: Prompts) -> tuple[list[Group], Rewards | None]:
        recipe = self._recipe
        with self._timed("generate"):
            groups = self._workers.generate(prompts(number), recipe.batch.samples, recipe.seed * 1_000_003 + number)
        if not recipe.algorithm.rewarded:
            return groups, None
        with self._timed("reward"):
            rewards = self._workers.compute_rewards(groups)
        if rewards.failed:
            self._note(f"step {step}: {rewards.failed} rewards failed; the first: {rewards.first_failure}")
        return groups, rewards
