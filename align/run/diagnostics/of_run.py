"""The diagnostics of a run of a recipe."""

from __future__ import annotations

from collections.abc import Iterable

from align.config.schema import Recipe
from align.run.diagnostics import Detector, Diagnostics, Finding
from align.run.diagnostics.entropy import EntropyCollapse
from align.run.diagnostics.failing_rewards import FailingRewards
from align.run.diagnostics.kl_runaway import KLRunaway
from align.run.diagnostics.no_signal import NoSignal
from align.run.diagnostics.overfitting import Overfitting
from align.run.diagnostics.truncated import Truncated
from align.run.diagnostics.weightless import Weightless


def diagnostics(recipe: Recipe, before: Iterable[Finding] = ()) -> Diagnostics:
    """Every detector for an algorithm that samples; for others those that data alone cannot trigger."""
    sampling: list[Detector] = [
        NoSignal(by_group=recipe.algorithm.least_samples > 1),
        EntropyCollapse(),
        Truncated(recipe.sampling.max_tokens),
        FailingRewards(),
    ]
    return Diagnostics(
        [*(sampling if recipe.algorithm.samples else []), KLRunaway(), Overfitting(), Weightless(recipe.regularizers)], before
    )
