"""Evaluates a policy on held-out problems, and its distance from the initial policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from align.config.checks import check_held_out
from align.config.guard import guarded
from align.config.schema import Recipe
from align.errors import UserError
from align.experience import task_data
from align.experience.examples import held_out_rankings, tokenize
from align.experience.limits import fit_prompts
from align.rewards import start_reward
from align.run.answer_metrics import Values, judged, means
from align.run.measured_model import measured_model, recipe_of
from align.run.model_files import check_files
from align.types import Group, Prompt
from align.vocabulary.files import load_tokenizer
from align.vocabulary.model_folder import checked
from align.workers.reward_runner import run_rewards
from align.workers.shards import generate
from align.workers.turns import start_rollouts

Generate = Callable[[Sequence[Prompt], int, int], list[Group]]


class Suites:
    """A task's held-out data, tokenized once: problems by suite (none for a reward model), and rankings if the algorithm uses them."""

    def __init__(self, recipe: Recipe, tokenizer: Any, problems: int):
        """`problems`: of each suite. 0: none is read, as in a run that never evaluates."""
        self._task, algorithm = recipe.task, recipe.algorithm
        suites = {} if algorithm.trains_reward_model or not problems else task_data.suites(self._task, problems)
        fitted = {
            name: fit_prompts(self._task, examples, tokenize(examples, tokenizer), tokenizer, f"prompts of {name}")
            for name, examples in suites.items()
        }
        self.prompts = {name: found.prompts for name, found in fitted.items()}
        self.notes = [note for found in fitted.values() for note in found.notes]
        """What was left out, for the user."""
        longest, revision = recipe.sampling.max_tokens, algorithm.revision
        self.rankings = held_out_rankings(self._task, tokenizer, longest, revision) if algorithm.ranks else []
        self.dropped = len(self._task.rankings()) - len(self.rankings) if algorithm.ranks else 0

    def evaluate(self, generate: Generate, samples: int, seed: int) -> tuple[dict[str, float], list[Group]]:
        """`suite/metric` for every suite, and the answers to the first suite, on which divergences are measured."""
        metrics, first = {}, []
        for name, prompts in self.prompts.items():
            groups = generate(prompts, samples, seed)
            first = first or groups
            metrics |= {f"{name}/{metric}": value for metric, value in task_data.checked_metrics(self._task, name, groups).items()}
        return metrics, first


class Measured(NamedTuple):
    """Metrics of a model on held-out problems."""

    metrics: dict[str, float]
    values: dict[str, Values]
    """By problem, in the order of the suite; one value alone for a metric of a task that is no mean over problems."""


def evaluate(
    model: str | Path,
    recipe: Recipe | None = None,
    *,
    problems: int | None = None,
    samples: int | None = None,
    temperature: float | None = None,
) -> dict[str, float]:
    """Measure a model on the held-out problems of a recipe's task, in this process, with the recipe's engine and sampling.

    Seeds and units are those of a run, so a run's final model gives the numbers in its summary again.

    Args:
        model: The folder of a run, whose final model is measured; one of its checkpoints (`runs/mine/checkpoints/step_000020`); a folder
            with a Hugging Face model or a peft adapter; or an id of the Hugging Face Hub.
        recipe: Gives task, engine, sampling and seed. None: the recipe of the run, which `model` must then be of.
        problems: Held-out problems of each suite. None: the recipe's `evaluation.problems`.
        samples: Answers to each. None: the recipe's `evaluation.samples`.
        temperature: Of the answers. None: the recipe's `evaluation.sampling.temperature`, or else its `sampling.temperature`.

    Returns:
        `suite/metric` to its value: shares from 0 to 1 (`countdown/pass@1`), lengths in tokens (`countdown/length`).

    Raises:
        UserError: For a folder without a model or a recipe, a damaged file or checkpoint, and a recipe that trains a reward model.

    The recipe's reward judges the answers to the first suite, in the main thread. `pass@k` is the unbiased estimate of Chen et al.
    2107.03374.

    Example:
        >>> import align
        >>> small = ["steps=2", "optimizer.warmup_steps=0", "task.size=64", "batch.prompts=8", "evaluation.every=-1"]
        >>> recipe = align.load("countdown_sft", small)
        >>> summary = align.train(recipe, "runs/measured")  # doctest: +ELLIPSIS
        step  1/2 ...
        >>> metrics = align.evaluate("runs/measured", problems=4, samples=2)
        >>> sorted(metrics)
        ['countdown/coverage', 'countdown/length', 'countdown/pass@1', 'countdown/pass@2', 'sort/pass@1']
    """
    recipe = recipe_of(model) if recipe is None else recipe
    return measure(model, recipe, problems=problems, samples=samples, temperature=temperature).metrics


def measure(
    model: str | Path, recipe: Recipe, *, problems: int | None = None, samples: int | None = None, temperature: float | None = None
) -> Measured:
    """What `evaluate` returns, with the values of the single problems. Raises UserError as `evaluate` does."""
    if recipe.algorithm.trains_reward_model:
        raise UserError(
            f"{recipe.algorithm.recipe_name} trained a reward model, which generates no answers: the accuracy on held-out "
            "rankings is in the metrics of its run"
        )
    if temperature is not None:
        recipe = _at_temperature(recipe, temperature)
    check_held_out(replace(recipe, evaluation=replace(recipe.evaluation, samples=samples or recipe.evaluation.samples)))
    with TemporaryDirectory() as scratch, guarded(recipe):
        folder = str(measured_model(model, Path(scratch)))
        check_files(Path(folder))
        tokenizer = load_tokenizer(folder, "MODEL")
        checked(folder, tokenizer)
        reward = None if recipe.reward is None else start_reward(recipe.reward)
        suites = Suites(recipe, tokenizer, problems or recipe.evaluation.problems)
        longest = max(len(p.token_ids) for prompts in suites.prompts.values() for p in prompts)
        engine = start_rollouts(recipe, folder, longest)
        draw = partial(generate, recipe.engine, engine, drawing=recipe.drawing, workers=recipe.workers.rollout)
        try:
            answers = {suite: draw(prompts, samples or recipe.evaluation.samples, recipe.seed) for suite, prompts in suites.prompts.items()}
        finally:
            engine.close()
        metrics, values = {}, {}
        for suite, groups in answers.items():
            for name, value in task_data.checked_metrics(recipe.task, suite, groups).items():
                metrics[f"{suite}/{name}"] = value
                values[f"{suite}/{name}"] = _by_problem(recipe.task, suite, groups, name, value)
        suite, groups = next(iter(answers.items()))
        rewards = None if reward is None else run_rewards(reward, recipe.reward_limits, groups)
        more = {f"{suite}/{name}": v for name, v in judged(recipe, suite, groups, rewards, metrics).items()}
        more = {name: v for name, v in more.items() if name not in metrics}
        return Measured(metrics | means(more), values | more)


def _at_temperature(recipe: Recipe, temperature: float) -> Recipe:
    """The recipe with this temperature for held-out answers, also if it has one of their own."""
    own = replace(recipe.evaluation, sampling=replace(recipe.evaluation.sampling, temperature=None))
    return replace(recipe, sampling=replace(recipe.sampling, temperature=temperature), evaluation=own)


def _by_problem(task: Any, suite: str, groups: Sequence[Group], name: str, value: float) -> Values:
    """A metric of the task by problem if it is a mean over problems; else the one value."""
    values = np.array([task_data.checked_metrics(task, suite, [group]).get(name, np.nan) for group in groups])
    is_mean = not np.isnan(values).all() and np.isclose(np.nanmean(values), value, rtol=1e-9, atol=1e-12)
    return values if is_mean else np.array([float(value)])
