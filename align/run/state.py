"""The mutable state of a run. Recipes are frozen and their parts never change them, so one recipe can be trained repeatedly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from align.algorithms import Algorithm
from align.coefficients import Coefficient, State
from align.config.docstrings import format_part
from align.config.parts import location
from align.config.schema import Recipe
from align.errors import RecipeError, UserError
from align.loss_weightings import LossWeighting
from align.regularizers import Regularizer
from align.run.pass_rates import pass_rates_of
from align.types import Stat, TokenBatch
from align.workers import LearnerLike

DRIVER = "driver.json"
"""Name of the file in a checkpoint with the loop's half of the state."""
WEIGHTING = "algorithm.loss_weighting"
LARGEST = 3e38
"""About the largest float32."""


def initial_states(regularizers: Mapping[str, Regularizer]) -> dict[str, State]:
    """The initial state of each regularizer's coefficient. Raises RecipeError for one that is not a mapping of JSON values."""
    return {
        name: _state(
            r.coefficient, f"regularizers.{name}.coefficient", "`initial_state`", r.coefficient.initial_state(), "the state at the start"
        )
        for name, r in regularizers.items()
    }


def initial_weighting_state(algorithm: Algorithm) -> State:
    """The initial state of the algorithm's loss weighting; empty without one. Raises RecipeError as `initial_states` does."""
    weighting = algorithm.loss_weighting
    if weighting is None:
        return {}
    return _state(weighting, WEIGHTING, "`initial_state`", weighting.initial_state(), "the state at the start")


class RunState:
    """The state of one run, in two halves that are saved and restored together.

    This object is the loop's half, with JSON values only: completed steps, rounds of prompts drawn, pass rates of prompts, coefficient
    states and the evaluation before the first step.
    The learner's half (policy, critic, optimizer, references, counters) is tensors in the learner's process, maybe on another node:
    `Learner.state_dict`. `save` writes both halves into one folder, each from its own process: `driver.json` and `learner/`.
    """

    def __init__(self, recipe: Recipe):
        self._regularizers, self._algorithm = recipe.regularizers, recipe.algorithm
        self.step = 0
        """The number of completed steps, and so the index of the next step."""
        self._rounds = {0: 0}
        self.before: dict[str, float] = {}
        """The evaluation before the first step."""
        self.coefficients = initial_states(recipe.regularizers)
        self.algorithm = _state(
            recipe.algorithm, "algorithm", "`initial_state`", recipe.algorithm.initial_state(), "the state at the start"
        )
        self.loss_weighting = initial_weighting_state(recipe.algorithm)
        """The state of the algorithm's loss weighting."""
        self.pass_rates = pass_rates_of(recipe)
        """The pass rates of the prompts; None without a curriculum."""

    def begin(self, batch: TokenBatch, step: int) -> TokenBatch:
        """The batch of this step with its number, its coefficients, and what its algorithm remembers."""
        return replace(batch, step=step, betas=self.betas(step), algorithm_state=self._algorithm.state_for(self.algorithm, batch))

    def rounds_before(self, step: int) -> int:
        """Rounds of prompts that were drawn before this step: as many as steps, and more with `batch.refill`."""
        return self._rounds.get(step, step)

    def drew(self, step: int, rounds: int) -> None:
        """Record how many rounds this step drew. They count once the step is completed: a checkpoint before that has the earlier ones."""
        kept = {earlier: before for earlier, before in self._rounds.items() if self.step <= earlier <= step}
        self._rounds = kept | {step + 1: self.rounds_before(step) + rounds}

    def betas(self, step: int) -> dict[str, float]:
        """By regularizer: the coefficient at this step."""
        return {
            name: beta_of(r, f"regularizers.{name}.coefficient", step, self.coefficients[name]) for name, r in self._regularizers.items()
        }

    def control(self, batch: TokenBatch, stats: Mapping[str, Stat]) -> None:
        """Update the states of the algorithm, its loss weighting and the active regularizers' coefficients after a step on this batch,
        which is prepared.

        All are updated, or none if one raises. Raises RecipeError for a state that is not a mapping of JSON values.
        """
        following = dict(self.coefficients)
        for name, regularizer in self._regularizers.items():
            if f"divergence/{name}" in stats:
                rule, measured = regularizer.coefficient, stats[f"divergence/{name}"]
                state = rule.update(self.coefficients[name], measured.mean, len(batch.lengths))
                state = rule.update_batch(state, batch.only(rule.needs, rule, f"regularizers.{name}.coefficient"), name)
                if measured.by_prompt:
                    state = rule.update_prompts(state, {prompt: stat.mean for prompt, stat in measured.by_prompt.items()})
                following[name] = _state(rule, f"regularizers.{name}.coefficient", "an update", state, "the state that follows")
        algorithm = self._algorithm
        remembered = algorithm.update_state(self.algorithm, batch.only(algorithm.reads, algorithm, "algorithm"))
        self.algorithm = _state(algorithm, "algorithm", "`update_state`", remembered, "the state that follows")
        self.loss_weighting = self._weighting_after(stats)
        self.coefficients = following

    def _weighting_after(self, stats: Mapping[str, Stat]) -> State:
        """The state of the loss weighting after a step."""
        weighting = self._algorithm.loss_weighting
        if weighting is None or not weighting.has_state:
            return self.loss_weighting
        losses = {example: stat.mean for example, stat in stats["loss/example"].by_prompt.items()}
        return _state(weighting, WEIGHTING, "an update", weighting.update(self.loss_weighting, losses), "the state that follows")

    def state_dict(self) -> dict[str, Any]:
        """The loop's half, with JSON values only."""
        return {
            "step": self.step,
            "rounds": self.rounds_before(self.step),
            "coefficients": dict(self.coefficients),
            "rules": self._rules(),
            "algorithm": dict(self.algorithm),
            "loss_weighting": dict(self.loss_weighting),
            "before": self.before,
            "pass_rates": {} if self.pass_rates is None else self.pass_rates.state_dict(self.step),
        }

    def _rules(self) -> dict[str, str]:
        return {name: r.coefficient.recipe_name for name, r in self._regularizers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises UserError for the state of other regularizers, or of other coefficients."""
        found = state["coefficients"]
        if found.keys() != self.coefficients.keys():
            raise UserError(
                f"the checkpoint has the regularizers {', '.join(found) or 'none'}, the recipe has "
                f"{', '.join(self.coefficients) or 'none'}: resume with the recipe the run was started with"
            )
        for name, rule in self._rules().items():
            if (before := state.get("rules", {}).get(name, rule)) != rule:
                raise UserError(
                    f"regularizers.{name}.coefficient: the checkpoint is of another one, {before}, and the recipe has {rule}: resume with "
                    "the recipe the run was started with"
                )
        for name, first in self.coefficients.items():
            if missing := first.keys() - found[name].keys():
                raise UserError(
                    f"regularizers.{name}.coefficient: the checkpoint is of another one, whose state has no "
                    f"{', '.join(sorted(missing))}: resume with the recipe the run was started with"
                )
        remembered = state.get("algorithm", {})
        if missing := self.algorithm.keys() - remembered.keys():
            raise UserError(
                f"algorithm: the checkpoint is of another one, whose state has no {', '.join(sorted(missing))}: resume with the recipe the "
                "run was started with"
            )
        self.step, self.before, self.coefficients, self.algorithm = state["step"], state["before"], dict(found), dict(remembered)
        self.loss_weighting = dict(state.get("loss_weighting", self.loss_weighting))
        self._rounds = {self.step: state.get("rounds", self.step)}
        if self.pass_rates is not None:
            self.pass_rates.load_state_dict(self.step, state.get("pass_rates", {}))

    def save(self, folder: Path, learner: LearnerLike) -> None:
        """Save both halves."""
        learner.save(str(folder / "learner"))
        (folder / DRIVER).write_text(json.dumps(self.state_dict(), indent=1))

    def load(self, folder: Path, learner: LearnerLike) -> None:
        """Load both halves of a checkpoint that was verified. Raises UserError if it is not one of this recipe."""
        self.load_state_dict(json.loads((folder / DRIVER).read_text()))
        learner.load(str(folder / "learner"))


def _state(rule: Coefficient | Algorithm | LossWeighting, where: str, method: str, found: Any, what: str) -> dict[str, Any]:
    """The state that a method of a part returned, checked to be JSON values, which a checkpoint can hold."""

    def problem() -> str:  # reads the part's source, so not at each step
        return f"{location(type(rule))}: {method} of {type(rule).__name__} returned {found!r:.60}: return {what}, as a new dictionary"

    if not isinstance(found, Mapping):
        raise RecipeError(where, problem())
    try:
        json.dumps(state := dict(found))
    except (TypeError, ValueError) as error:
        raise RecipeError(where, f"{problem()} of JSON values ({error})") from error
    return state


def beta_of(regularizer: Regularizer, where: str, step: int, state: State) -> float:
    """The coefficient at this step. Raises RecipeError for anything else than a number from 0 up that float32 holds."""
    rule = regularizer.coefficient
    beta = rule.beta(step, state)
    if not (isinstance(beta, int | float) and 0 <= beta <= LARGEST):
        raise RecipeError(
            where, f"{location(type(rule))}: beta of {format_part(rule)} is {beta!r:.60} at step {step}; it must be a number, 0 or more"
        )
    return beta
