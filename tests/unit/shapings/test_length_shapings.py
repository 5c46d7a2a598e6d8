"""`overlong` and `length_complexity` by the papers' numbers."""

from __future__ import annotations

import torch
from unit.shapings.batches import batch, close, shaping

# overlong


def test_overlong_punishment_of_dapo():
    """The paper's numbers: at most 20480 tokens, 4096 of them buffer."""
    many = batch(lengths=[10000, 16384, 18432, 20480]), torch.tensor([1.0, 0.5, 0.5, -1.0])
    close(shaping("overlong", limit=20480, buffer=4096).rewards(*many), [1.0, 0.5, 0.0, -2.0])
    close(shaping("overlong", limit=20480, buffer=4096, factor=0.5).rewards(*many), [1.0, 0.5, 0.25, -1.5])
    close(shaping("overlong", limit=18432, buffer=8192).rewards(*many), [1.0, -0.25, -0.5, -2.0])


# length_complexity


def test_excess_length_of_wrong_answers_by_hand():
    """A group whose solved answers have 3 tokens on average; excess 0, 1000 and 1e5, A < 0 (methods, row 33)."""
    for excess, factor in ((0, 1.0), (1000, 1.0099501167), (100_000, 1.6321187194)):
        many = batch(rewards=(1.0, 1.0, 0.0, 0.0), lengths=[2, 4, 3 + excess, 3], groups=(0, 0, 0, 1))
        count = int(many.lengths.sum())
        found = shaping("length_complexity").advantages(many, torch.full((count,), -2.0), "x")
        torch.testing.assert_close(found[6:-3] / -2, torch.full((3 + excess,), factor), rtol=1e-6, atol=0)
        assert (found[:6] == -2).all() and (found[-3:] == -2).all(), "solved answers, and a group without any, stay"


def test_excess_length_spares_what_is_credited():
    many = batch(rewards=(1.0, 0.0, 0.0, 0.0), groups=(0, 0, 0, 0))
    mixed = torch.tensor([-1.0, -1.0, -1.0, -1.0, 2.0, 0.0, -1.0, 1.0, -1.0, -1.0])
    one, two = 1 + (1 - 1 / 1.5), 1 + (1 - 1 / 1.5**2)
    close(shaping("length_complexity", base=1.5).advantages(many, mixed, "x"), [-1, -1, -1, -one, 2, 0, -two, 1, -two, -two])


def test_solved_at_moves_the_line():
    many = batch(rewards=(0.6, 0.0, 0.0, 0.0), groups=(0, 0, 0, 0))
    flat = torch.full((10,), -1.0)
    assert torch.equal(shaping("length_complexity", base=1.5).advantages(many, flat, "x"), flat)
    assert not torch.equal(shaping("length_complexity", base=1.5, solved_at=0.6).advantages(many, flat, "x"), flat)
