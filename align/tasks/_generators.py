"""The problems of `reasoning_gym`, and the score of an answer by the generator's own verifier."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from align.config.suggestions import did_you_mean
from align.errors import RecipeError, UserError
from align.rewards._answers import extraction

ANSWER = extraction("(?s)<answer>(.*?)</answer>")


def generated(name: str, options: Mapping[str, Any], size: int, seed: int) -> Any:
    """A dataset of `reasoning_gym`: item i is drawn from seed + i alone. Raises UserError without the package, and RecipeError for a
    generator or an option that there is not."""
    return _dataset(name, json.dumps(options, sort_keys=True), size, seed)


@lru_cache(maxsize=8)  # some generators read word lists or build tables
def _dataset(name: str, options: str, size: int, seed: int) -> Any:
    try:
        reasoning_gym = importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise UserError(f"the task reasoning_gym needs the package reasoning-gym: pip install 'align[reasoning-gym]' ({error})") from error
    known = sorted(reasoning_gym.factory.DATASETS)
    if name not in known:
        hint = did_you_mean(name, known)
        raise RecipeError("task.generator", f"reasoning_gym has no generator {name!r}; {hint}It has {len(known)}: {', '.join(known)}")
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=seed, **json.loads(options))
    except (TypeError, ValueError, AssertionError) as error:  # its configurations check themselves by `assert`
        raise RecipeError("task.options", f"{name} does not take them: {error}") from error


def score(fields: Mapping[str, Any], response: str) -> float:
    """What the verifier gives the last `<answer>...</answer>` of a response, from 0 to 1; 0 for a response without one.

    Args: fields: of a prompt of the task `reasoning_gym`. Raises ValueError for those of another.
    """
    if "generator" not in fields:
        raise ValueError("this reward judges the prompts of the task reasoning_gym only; for answers in a file there is `match`")
    dataset = generated(fields["generator"], fields["options"], fields["size"], fields["seed"])
    return float(dataset.score_answer(ANSWER(response), entry=dataset[fields["index"]]))
