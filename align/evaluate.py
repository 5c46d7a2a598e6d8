"""How good a policy is on held-out problems, and how far it went from where it started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from align.errors import UserError
from align.experience import tokenize
from align.recipe import load
from align.tasks import Task
from align.types import Group, Prompt

Generate = Callable[[Sequence[Prompt], int, int], list[Group]]


class Suites:
    """The held-out problems of a task, tokenized once."""

    def __init__(self, task: Task, tokenizer: Any, problems: int):
        self._task = task
        self.prompts = {name: tokenize(examples, tokenizer) for name, examples in task.suites(problems).items()}

    def evaluate(self, generate: Generate, samples: int, seed: int) -> tuple[dict[str, float], list[Group]]:
        """`suite/metric` for every suite, and the answers to the first one, from which divergences are measured."""
        metrics, first = {}, []
        for name, prompts in self.prompts.items():
            groups = generate(prompts, samples, seed)
            first = first or groups
            metrics |= {f"{name}/{metric}": value for metric, value in self._task.judge(name, groups).items()}
        return metrics, first


def evaluate_model(run_dir: Path, model: Path | None = None, problems: int | None = None, samples: int | None = None) -> dict[str, float]:
    """Metrics of a run's final model, or of another model folder, on the task of that run. One process, the run's engine.

    Args: problems and samples, where not given, are those of the run's recipe.
    """
    recipe_file = run_dir / "recipe.yaml"
    if not recipe_file.is_file():
        raise UserError(f"{run_dir} is not the folder of a run: it has no recipe.yaml")
    recipe = load(recipe_file)
    folder = model or run_dir / "model"
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model (no config.json); the run has not finished, or give --model DIR")
    suites = Suites(recipe.task, AutoTokenizer.from_pretrained(folder), problems or recipe.evaluation.problems)
    longest = max(len(p.token_ids) for prompts in suites.prompts.values() for p in prompts)
    recipe.engine.start(str(folder), recipe.sampling, longest)
    try:
        return suites.evaluate(recipe.engine.generate, samples or recipe.evaluation.samples, recipe.seed)[0]
    finally:
        recipe.engine.close()
