"""A coefficient: the strength of a regularizer at each step.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    regularizers: {kl: {coefficient: "./skeleton.py:Skeleton"}}
"""

from align.coefficients import Coefficient, State


class Skeleton(Coefficient):
    """Grows by `rate` after each step whose divergence is above the target, and shrinks by it otherwise."""

    target: float = 1.0
    """Nats per answer."""
    initial: float = 0.1
    rate: float = 0.02
    smallest: float = 1e-4
    largest: float = 10.0

    def __post_init__(self):
        if not 0 < self.smallest <= self.initial <= self.largest:
            raise ValueError("must be 0 < smallest <= initial <= largest")

    def initial_state(self) -> State:
        """JSON values, which a checkpoint holds. Without a state, leave out this method and `update`."""
        return {"beta": self.initial}

    def beta(self, step: int, state: State) -> float:
        """The coefficient of the batch of this step, counted from 0."""
        return state["beta"]

    def update(self, state: State, divergence: float, rollouts: int) -> State:
        """The next state, a new one. Args: divergence: nats per answer, the mean of the step; rollouts: its answers."""
        factor = 1 + self.rate if divergence > self.target else 1 / (1 + self.rate)
        return {"beta": min(max(state["beta"] * factor, self.smallest), self.largest)}
