"""The weights of curricula by hand, and the draws that follow them."""

from __future__ import annotations

from itertools import permutations
from math import sqrt
from typing import Any

import numpy as np
import pytest

from align.curricula import Curriculum
from align.curricula.learnability import Learnability
from align.curricula.success_gap import SuccessGap
from align.errors import RecipeError
from align.experience.weighted_draws import weighted_indices
from align.run.curriculum import checked_weights, curriculum_metrics

PASSED, TRIED = np.array([np.nan, 0.0, 0.25, 0.5, 1.0]), np.array([0, 8, 8, 8, 8])


@pytest.mark.parametrize(
    ("curriculum", "weights"),
    [
        (Learnability(least=0.01), [0.25, 0.01, 0.1875, 0.25, 0.01]),
        (Learnability(least=0.2), [0.25, 0.2, 0.2, 0.25, 0.2]),
        (SuccessGap(least=0.01), [1.0, 1.0, 0.75, 0.5, 0.01]),
        (SuccessGap(least=0.6), [1.0, 1.0, 0.75, 0.6, 0.6]),
    ],
    ids=lambda x: repr(x) if isinstance(x, Curriculum) else "",
)
def test_weights_by_hand(curriculum: Curriculum, weights: list[float]):
    assert curriculum.weights(PASSED, TRIED).tolist() == weights


def frequencies(weights: list[float], count: int, rounds: int) -> np.ndarray:
    """The share of rounds in which each example was drawn."""
    drawn = [weighted_indices(number, count, np.array(weights), seed=3) for number in range(rounds)]
    assert all(len(set(indices)) == count for indices in drawn)
    return np.bincount(np.concatenate(drawn), minlength=len(weights)) / rounds


def inclusion(weights: list[float], count: int) -> np.ndarray:
    """The probability of each example to be among `count`, summed over all orders in which they can be drawn."""
    chances = np.zeros(len(weights))
    for order in permutations(range(len(weights)), count):
        chance, left = 1.0, sum(weights)
        for i in order:
            chance, left = chance * weights[i] / left, left - weights[i]
        chances[list(order)] += chance
    return chances


@pytest.mark.parametrize("count", [1, 2, 3])
def test_draws_follow_the_weights(count: int):
    weights, rounds = [4.0, 2.0, 1.0, 0.5, 0.5], 4000
    wanted = inclusion(weights, count)
    assert wanted.sum() == pytest.approx(count)
    assert np.abs(frequencies(weights, count, rounds) - wanted).max() < 4 * sqrt(0.25 / rounds)


def test_the_order_of_a_round_does_not_follow_the_weights():
    """A minibatch is a part of a round in its order."""
    first = np.bincount([weighted_indices(n, 2, np.array([9.0, 1.0]), seed=0)[0] for n in range(400)]) / 400
    assert np.abs(first - 0.5).max() < 0.1


def test_solved_and_unsolved_prompts_are_drawn_rarely_and_not_never():
    drawn = frequencies(Learnability(least=0.01).weights(PASSED, TRIED).tolist(), 1, 4000)
    assert 0 < drawn[1] < 0.03 and 0 < drawn[4] < 0.03 and drawn[3] > 0.3


def test_a_draw_is_a_function_of_seed_round_and_weights():
    weights = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    one = [weighted_indices(number, 4, weights, seed=1) for number in range(6)]
    assert one == [weighted_indices(number, 4, 10 * weights, seed=1) for number in reversed(range(6))][::-1]
    assert one != [weighted_indices(number, 4, weights, seed=2) for number in range(6)]
    assert len(set(map(tuple, one))) > 1


def test_a_round_larger_than_the_data_has_whole_copies():
    drawn = weighted_indices(0, 8, np.array([1.0, 1.0, 1e-12]), seed=0)
    assert np.bincount(drawn).tolist() == [3, 3, 2]


def test_weight_zero_is_drawn_where_nothing_else_is_left():
    drawn = [weighted_indices(n, 2, np.array([0.0, 1.0, 0.0]), seed=0) for n in range(40)]
    assert all(1 in indices for indices in drawn) and {i for indices in drawn for i in indices} == {0, 1, 2}


class Given(Curriculum):
    """Returns what it is given."""

    found: Any = None

    def weights(self, passed, tried) -> Any:
        return self.found


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([1.0, 1.0], r"returned \[1.0, 1.0\], must be float64 \[2\]"),
        (np.ones(3), r"returned float64 \[3\], must be float64 \[2\]"),
        (np.ones(2, dtype=np.float32), r"returned float32 \[2\], must be float64 \[2\]"),
        (np.array([1.0, -1.0]), "returned -1 at 1 of 2 places, must be finite and >= 0"),
        (np.array([np.nan, 1.0]), "returned nan at 1 of 2 places"),
        (np.zeros(2), "returned 0 for every prompt, must be above 0 for at least one prompt"),
    ],
)
def test_wrong_weights_are_refused_at_the_key(found: object, says: str):
    part = Given()
    part.found = found
    with pytest.raises(RecipeError, match=says) as refused:
        checked_weights(part, np.array([0.5, 0.5]), np.array([1, 1]))
    assert refused.value.where == "curriculum" and "test_rules.py:" in refused.value.problem


def test_metrics_by_hand():
    metrics = curriculum_metrics(np.array([2.0, 2.0, 0.0, 2.0]), np.array([0, 3, 0, 1]), np.array([np.nan, 0.5, 1.0]))
    assert metrics == {"curriculum/pass_rate": 0.75, "curriculum/tried": 0.5, "curriculum/effective_prompts": pytest.approx(3.0)}
    assert "curriculum/pass_rate" not in curriculum_metrics(np.ones(2), np.zeros(2), np.array([np.nan]))
