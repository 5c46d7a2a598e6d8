"""A stand-in for the package reasoning_gym with two generators of sums: item i asks for seed + i + first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class Sums:
    def __init__(self, size: int, seed: int, first: int = 1):
        if not isinstance(first, int):
            raise AssertionError("first must be an integer")
        self._size, self._seed, self._first = size, seed, first

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._size:
            raise IndexError(index)
        n = self._seed + index
        return {"question": f"{n}+{self._first}=", "answer": str(n + self._first), "metadata": {"n": n}}

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        return 1.0 if answer == entry["answer"] else 0.01 if answer else 0.0


factory = SimpleNamespace(DATASETS={"sums": Sums, "other_sums": lambda **options: Sums(**{"first": 2} | options)})


def create_dataset(name: str, **options) -> Sums:
    return factory.DATASETS[name](**options)
