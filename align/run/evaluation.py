"""Evaluates a policy on held-out problems, and its distance from the initial policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from align.config.guard import guarded
from align.config.recipes import load
from align.config.schema import Recipe
from align.engines import start_engine
from align.errors import UserError
from align.experience import task_data
from align.experience.examples import held_out_rankings, tokenize
from align.experience.limits import fit_prompts
from align.run.model_files import check_files
from align.types import Group, Prompt
from align.vocabulary.files import load_tokenizer
from align.vocabulary.model_folder import checked
from align.workers.shards import generate

RECIPE = "recipe.yaml"
"""The recipe's file in the folder of a run."""
Generate = Callable[[Sequence[Prompt], int, int], list[Group]]


class Suites:
    """A task's held-out data, tokenized once: problems by suite (none for a reward model), and rankings if the algorithm uses them."""

    def __init__(self, recipe: Recipe, tokenizer: Any, problems: int | None = None):
        self._task, algorithm = recipe.task, recipe.algorithm
        suites = {} if algorithm.trains_reward_model else task_data.suites(self._task, problems or recipe.evaluation.problems)
        fitted = {
            name: fit_prompts(self._task, examples, tokenize(examples, tokenizer), tokenizer, f"prompts of {name}")
            for name, examples in suites.items()
        }
        self.prompts = {name: found.prompts for name, found in fitted.items()}
        self.notes = [note for found in fitted.values() for note in found.notes]
        """What was left out, for the user."""
        self.rankings = held_out_rankings(self._task, tokenizer, recipe.sampling.max_tokens) if algorithm.ranks else []
        self.dropped = len(self._task.rankings()) - len(self.rankings) if algorithm.ranks else 0

    def evaluate(self, generate: Generate, samples: int, seed: int) -> tuple[dict[str, float], list[Group]]:
        """`suite/metric` for every suite, and the answers to the first suite, on which divergences are measured."""
        metrics, first = {}, []
        for name, prompts in self.prompts.items():
            groups = generate(prompts, samples, seed)
            first = first or groups
            metrics |= {f"{name}/{metric}": value for metric, value in task_data.checked_metrics(self._task, name, groups).items()}
        return metrics, first


def evaluate(
    model: str | Path, recipe: Recipe | None = None, *, problems: int | None = None, samples: int | None = None
) -> dict[str, float]:
    """Measure a model on the held-out problems of a recipe's task, in this process, with the recipe's engine and sampling.

    Seeds and units are those of a run, so a run's final model gives the numbers in its summary again.

    Args:
        model: The folder of a run, whose final model is measured, or a Hugging Face model folder.
        recipe: Gives task, engine, sampling and seed. None: the recipe of the run.
        problems: Held-out problems of each suite. None: the recipe's `evaluation.problems`.
        samples: Answers to each. None: the recipe's `evaluation.samples`.

    Returns:
        `suite/metric` to its value: shares from 0 to 1 (`countdown/pass@1`), lengths in tokens (`countdown/length`).

    Raises:
        UserError: For a folder without a model or a recipe, a damaged file of the model, and a recipe that trains a reward model.

    `pass@k` is the unbiased estimate of Chen et al. 2107.03374.

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
    folder = Path(model)
    recipe = recipe_of(folder) if recipe is None else recipe
    # A run saves its model in a subfolder; an unfinished run has none.
    folder = folder / "model" if (folder / RECIPE).is_file() else folder
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model (no config.json); the run has not finished, or give --model DIR")
    if recipe.algorithm.trains_reward_model:
        raise UserError(
            f"{recipe.algorithm.recipe_name} trained a reward model, which generates no answers: the accuracy on held-out "
            "rankings is in the metrics of its run"
        )
    check_files(folder)
    tokenizer = load_tokenizer(str(folder), "--model")
    checked(str(folder), tokenizer)
    with guarded(recipe):
        suites = Suites(recipe, tokenizer, problems)
        longest = max(len(p.token_ids) for prompts in suites.prompts.values() for p in prompts)
        engine = start_engine(recipe.engine, str(folder), recipe.sampling, longest)
        draw = partial(generate, recipe.engine, engine, workers=recipe.workers.rollout)
        try:
            return suites.evaluate(draw, samples or recipe.evaluation.samples, recipe.seed)[0]
        finally:
            engine.close()


def recipe_of(run_dir: Path) -> Recipe:
    """The recipe of a run. Raises UserError if the folder is not of a run."""
    if not (run_dir / RECIPE).is_file():
        raise UserError(f"{run_dir} is not the folder of a run: it has no {RECIPE}")
    return load(run_dir / RECIPE)
