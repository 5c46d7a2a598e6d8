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
        self.error, self.sum = 0.0, 0.0

    def beta(self, step):
        """The coefficient of the batch of this step."""
        most = math.log(self.largest_change)
        return self.initial * math.exp(min(max(self.proportional * self.error + self.integral * self.sum, -most), most))

    def update(self, divergence, rollouts):
        """Told after each step, in nats an answer."""
        self.error = min(max(divergence / self.target - 1, -1.0), 1.0)
        most = math.log(self.largest_change) / self.integral
        self.sum = min(max(self.sum + self.error, -most), most)

    def state_dict(self):
        """What a checkpoint must hold: without it a resumed run would start again from `initial`."""
        return {"error": self.error, "sum": self.sum}

    def load_state_dict(self, state):
        self.error, self.sum = state["error"], state["sum"]
