"""A rule for beta with a memory. `align` reads this file as it is: nothing is derived or registered."""

import math


class PiController:
    """Proportional-integral control of beta to a divergence of `target` nats an answer, in the logarithm: beta stays positive.

    After each step with measured divergence d, `e = d/target - 1` cut to [-1, 1], `s += e` and
    `log(beta/initial) = proportional * e + integral * s`.
    """

    target: float
    """Nats an answer (summed over its tokens)."""
    initial: float = 0.1
    proportional: float = 0.5
    """Answers at once, and forgets."""
    integral: float = 0.1
    """Remembers: it goes on until the target is met."""
    largest_change: float = 100.0
    """Beta stays within this factor of `initial`, and `s` does not grow beyond it (or it would take as long to come back)."""

    def __post_init__(self):
        for key in ("target", "initial", "proportional", "integral"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ValueError(f"{key} must be positive, not {getattr(self, key)}")
        if not 1 < self.largest_change < float("inf"):
            raise ValueError(f"largest_change must be above 1, not {self.largest_change}")

    def initial_state(self):
        """What the rule remembers, at the first step. JSON values: a checkpoint holds them."""
        return {"error": 0.0, "sum": 0.0}

    def beta(self, step, state):
        """The coefficient of the batch of this step."""
        most = math.log(self.largest_change)
        return self.initial * math.exp(min(max(self.proportional * state["error"] + self.integral * state["sum"], -most), most))

    def update(self, state, divergence, rollouts):
        """The state after a step that measured this divergence, in nats an answer."""
        error = min(max(divergence / self.target - 1, -1.0), 1.0)
        most = math.log(self.largest_change) / self.integral
        return {"error": error, "sum": min(max(state["sum"] + error, -most), most)}
