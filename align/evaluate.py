"""How good a policy is on held-out problems, and how far it went from where it started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from align.engines import started
from align.errors import UserError
from align.experience import held_out_rankings, tokenize
from align.recipe import Recipe, load
from align.types import Group, Prompt
from align.workers.shards import generate

Generate = Callable[[Sequence[Prompt], int, int], list[Group]]


class Suites:
    """What a task holds out, tokenized once: problems by suite, none for a scorer, and for who learns from them rankings."""

    def __init__(self, recipe: Recipe, tokenizer: Any, problems: int | None = None):
        self._task, algorithm = recipe.task, recipe.algorithm
        suites = {} if algorithm.scores else self._task.suites(problems or recipe.evaluation.problems)
        self.prompts = {name: tokenize(examples, tokenizer) for name, examples in suites.items()}
        self.rankings = held_out_rankings(self._task, tokenizer, recipe.sampling.max_tokens) if algorithm.ranks else []
        self.dropped = len(self._task.rankings()) - len(self.rankings) if algorithm.ranks else 0

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

    Seeds and units are those of the run, so that the final model gives the figures of its summary again.

    Args: problems and samples, where not given, are those of the run's recipe.
    """
    recipe_file = run_dir / "recipe.yaml"
    if not recipe_file.is_file():
        raise UserError(f"{run_dir} is not the folder of a run: it has no recipe.yaml")
    recipe = load(recipe_file)
    folder = model or run_dir / "model"
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model (no config.json); the run has not finished, or give --model DIR")
    if recipe.algorithm.scores:
        raise UserError(f"{run_dir} trained a scorer, which answers nothing: the accuracy on held-out rankings is in its metrics")
    suites = Suites(recipe, AutoTokenizer.from_pretrained(folder), problems)
    longest = max(len(p.token_ids) for prompts in suites.prompts.values() for p in prompts)
    engine = started(recipe.engine, str(folder), recipe.sampling, longest)
    draw = partial(generate, recipe.engine, engine, workers=recipe.workers.rollout)
    try:
        return suites.evaluate(draw, samples or recipe.evaluation.samples, recipe.seed)[0]
    finally:
        engine.close()
