"""A divergence whose process hangs once, in C code that looks for no signals, where the learner's update meets the file `order`."""

import itertools
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hanging:
    """The squared Hellinger distance."""

    order: str

    def f(self, log_u):
        order = Path(self.order)
        if order.exists():
            order.unlink()
            sum(itertools.repeat(0))
        return (log_u / 2).expm1() ** 2
