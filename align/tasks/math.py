from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from align.tasks.gsm8k import Gsm8k


@dataclass(frozen=True)
class Math(Gsm8k):
    r"""MATH, competition mathematics (Hendrycks et al. 2021, 2103.03874): the problem is asked as the user's turn, the answer is what is in
    the last `\boxed{...}` of the solution, and the held-out problems are those of its test split.

    `path` is the dataset on the Hub, a folder in its layout, or a file of its rows, whose held-out rows are then `eval_path` or
    `eval_share`. `filter: {level: [Level 3, Level 4, Level 5]}` takes the harder problems.
    """

    path: str = "DigitalLearningGmbH/MATH-lighteval"
    """The dataset on the Hub, a local folder that `datasets` loads, or a file of rows {problem, solution, level, type}."""
    subset: str | None = None
    """Configuration of the dataset, such as `algebra`; null: all subjects."""
    prompt: str = "problem"
    """The field with the problem."""
    answer: str = "solution"
    """The field with the worked solution, whose last box is the answer."""
    extract: str | None = "boxed"
    system: str | None = "Think step by step, then write the final answer in \\boxed{}."
    """The system's turn, which says how the answer is to be marked; null: none."""

    suite: ClassVar[str] = "math"
    whole: ClassVar[str | None] = None
