"""Metrics of answers to held-out problems by their rewards: one value for each problem, of which the metric is the mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from math import comb
from statistics import fmean

import numpy as np

from align.config.schema import Recipe
from align.types import Group, Rewards

Values = np.ndarray
"""float64 [problems]; NaN where a problem has no value, which the mean leaves out."""


def judged(recipe: Recipe, suite: str, groups: Sequence[Group], rewards: Rewards | None, own: Iterable[str]) -> dict[str, Values]:
    """Metrics of the answers to a suite, by problem; empty without a reward. A task that has its own `pass@k` keeps it."""
    if rewards is None:
        return {}
    final, least = recipe.reward.final_answer, recipe.evaluation.correct
    found = of_rewards(groups, rewards)
    if least is not None and not any(name.startswith(f"{suite}/pass@") for name in own):
        found |= of_verdicts(groups, rewards, least, final)
    return found | of_answers(groups, final)


def pass_at_k(k: int, answers: int, correct: int) -> float:
    """The chance that k of the answers, drawn without replacement, have a correct one: 1 - C(n-c, k) / C(n, k).

    It is the unbiased estimate of pass@k from n answers (Chen et al. 2107.03374, equation 1). NaN with fewer than k answers.
    """
    return float("nan") if answers < k else 1 - comb(answers - correct, k) / comb(answers, k)


def ks(samples: int) -> list[int]:
    """The k of `pass@k`: 1, 2, 4, ... and the number of answers."""
    return sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | {samples})


def majority(finals: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Whether the most frequent final answer is correct: the share of correct ones among equally frequent ones.

    None is no final answer, and never wins. Of answers with the same final answer but different verdicts, their mean counts.
    """
    votes: dict[str, list[bool]] = {}
    for final, verdict in zip(finals, correct, strict=True):
        if final is not None:
            votes.setdefault(final, []).append(verdict)
    most = max(map(len, votes.values()), default=0)
    winners = [float(np.mean(v)) for v in votes.values() if len(v) == most]
    return float(np.mean(winners)) if winners else 0.0


def of_answers(groups: Sequence[Group], final: Callable[[str], str | None]) -> dict[str, Values]:
    """The metrics that need no reward: `length` in tokens, `truncated` (share cut at the length limit), `distinct_answers` (number of
    different final answers over the number of answers)."""
    return {
        "length": _each(groups, lambda g: fmean(e.length for e in g.episodes)),
        "truncated": _each(groups, lambda g: fmean(not e.finished for e in g.episodes)),
        "distinct_answers": _each(groups, lambda g: len({final(e.text) for e in g.episodes}) / len(g.episodes)),
    }


def of_rewards(groups: Sequence[Group], rewards: Rewards) -> dict[str, Values]:
    """`reward`, and its parts as `reward/PART`; failed answers are left out."""
    named = {"reward": rewards.values} | {f"reward/{name}": part for name, part in rewards.parts.items()}
    return {name: np.array([_mean(part) for part in _split(groups, values)]) for name, values in named.items()}


def of_verdicts(groups: Sequence[Group], rewards: Rewards, least: float, final: Callable[[str], str | None]) -> dict[str, Values]:
    """`pass@k` for 1, 2, 4, ... and all answers, and `majority@n` of all n. An answer is correct with a reward of at least `least`.

    An answer whose reward failed has no verdict and is left out.
    """
    samples = max((len(g.episodes) for g in groups), default=0)
    found: dict[str, list[float]] = {f"pass@{k}": [] for k in ks(samples)} | {f"majority@{samples}": []}
    for group, values in zip(groups, _split(groups, rewards.values), strict=True):
        judged = [(final(e.text), value >= least) for e, value in zip(group.episodes, values, strict=True) if not np.isnan(value)]
        verdicts = [verdict for _, verdict in judged]
        for k in ks(samples):
            found[f"pass@{k}"].append(pass_at_k(k, len(verdicts), sum(verdicts)))
        found[f"majority@{samples}"].append(majority([f for f, _ in judged], verdicts) if judged else float("nan"))
    return {name: np.array(values) for name, values in found.items()}


def means(values: Mapping[str, Values]) -> dict[str, float]:
    """The mean of each metric over the problems that have a value. A metric without any value is left out."""
    return {name: float(np.nanmean(found)) for name, found in values.items() if not np.isnan(found).all()}


def _each(groups: Sequence[Group], value: Callable[[Group], float]) -> Values:
    return np.array([float(value(g)) for g in groups])


def _split(groups: Sequence[Group], values: np.ndarray) -> list[np.ndarray]:
    """The values of each group's answers."""
    return np.split(values.astype(np.float64), list(accumulate(len(g.episodes) for g in groups))[:-1])


def _mean(values: np.ndarray) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")
