"""Bugs that an RLHF trainer is prone to, each put into the sources as one change of text, and the tests that must notice."""

from __future__ import annotations

from listed import control, demonstrations, environments, experience, kernels, learner, objective, preferences
from listed.mutant import Mutant

MUTANTS: list[Mutant] = [
    *demonstrations.MUTANTS,
    *objective.MUTANTS,
    *kernels.MUTANTS,
    *learner.MUTANTS,
    *control.MUTANTS,
    *experience.MUTANTS,
    *environments.MUTANTS,
    *preferences.MUTANTS,
]
