"""The public conformance kit: checks that a part works in every recipe that can contain it.

Each `check_<kind>` takes a part's name, its class with keys, or a built part, and returns a list of findings; `check` does so for any
kind. `align check` prints the findings. The test of a plugin is one line:

    assert all(finding.passed for finding in check_divergence(MyDivergence, power=0.3))
"""

from __future__ import annotations

from typing import Any

from align.testing.advantages import check_advantage
from align.testing.algorithms import check_algorithm
from align.testing.coefficients import check_coefficient
from align.testing.critics import check_critic
from align.testing.curricula import check_curriculum
from align.testing.divergences import check_divergence
from align.testing.engines import check_engine
from align.testing.environments import check_environment
from align.testing.estimators import check_estimator
from align.testing.findings import Finding
from align.testing.likelihoods import check_likelihood
from align.testing.loss_weightings import check_loss_weighting
from align.testing.preferences import check_preference
from align.testing.reductions import check_reduction
from align.testing.references import check_reference
from align.testing.regularizers import check_regularizer
from align.testing.rewards import check_reward
from align.testing.shapings import check_shaping
from align.testing.surrogates import check_surrogate
from align.testing.tasks import check_task
from align.testing.weightings import check_weighting
from align.testing.writers import check_writer

__all__ = [
    "Finding",
    "check",
    "check_advantage",
    "check_algorithm",
    "check_coefficient",
    "check_critic",
    "check_curriculum",
    "check_divergence",
    "check_engine",
    "check_environment",
    "check_estimator",
    "check_likelihood",
    "check_loss_weighting",
    "check_preference",
    "check_reduction",
    "check_reference",
    "check_regularizer",
    "check_reward",
    "check_shaping",
    "check_surrogate",
    "check_task",
    "check_weighting",
    "check_writer",
]

CHECKS = {name.removeprefix("check_"): found for name, found in list(globals().items()) if name.startswith("check_")}


def check(kind: str, part: Any, /, **keys: Any) -> list[Finding]:
    """Calls `check_<kind>`. `keys`: the keys of the part, and options of the check (`model_dir`, `prompts`, `tolerance`)."""
    return CHECKS[kind](part, **keys)
