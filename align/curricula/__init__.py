"""Curricula: which training prompts a step draws, by the pass rates of their answers so far.

A step draws `batch.prompts` different prompts without replacement, one after another, each with a probability proportional to its weight
among those that are left. Without a curriculum the prompts are dealt from consecutive permutations of the data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float64, Int64

from align.config.formulas import Formulated
from align.config.parts import Setting

PASS_RATE = {"s": "the pass rate of a prompt: the share of its answers with a reward of at least evaluation.correct, averaged over visits"}
"""The symbol that formulas of this room share."""


class Curriculum(Formulated, ABC):
    """The contract: the weights of all training prompts, a pure function of their pass rates.

    The loop keeps the pass rates, and a checkpoint holds them. All rounds of a step are drawn by the rates before the step, and everything
    that was answered counts, also what `batch.refill` leaves out.
    """

    stated = ("weights",)
    memory: float = 0.5
    """At least 0, below 1: the weight of the rate so far in that after a visit, `memory * s + (1 - memory) * (the visit's share of
    passes)`. The first visit's share is the rate. A curriculum with a choice declares this as a key."""

    @abstractmethod
    def weights(self, passed: Float64[np.ndarray, " N"], tried: Int64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        """Of each training prompt: finite, at least 0, and not all 0. Only ratios matter.

        A prompt of weight 0 is drawn if there are not enough others.

        Args:
            passed: The pass rate, from 0 to 1; NaN for a prompt that was never tried. It cannot be written to.
            tried: The number of answers so far whose reward did not fail. It cannot be written to.
        """

    def misfit(self, setting: Setting) -> str | None:
        algorithm = setting.recipe.algorithm
        if not algorithm.rewarded:
            return (
                f"changes nothing: it draws prompts by the rewards of their answers, and {algorithm.recipe_name} learns from "
                f"{algorithm.learns_from}; delete the key, or use an algorithm with rewards, such as grpo"
            )
        if setting.recipe.evaluation.correct is None:
            return "no answer passes with evaluation.correct: null; set evaluation.correct to the least reward of a correct answer"
        return None if 0 <= self.memory < 1 else f"its memory must be at least 0 and below 1, not {self.memory!r}"
