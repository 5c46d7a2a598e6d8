"""A preference: the loss of a better and a worse answer to one prompt, from their scores.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    algorithm: {name: dpo, preference: "./skeleton.py:Skeleton"}
"""

from torch import Tensor

from align.preferences import Pairs, Preference


class Skeleton(Preference):
    """A squared hinge: pairs cost nothing whose implicit rewards differ by `margin` or more."""

    margin: float = 1.0

    def __post_init__(self):
        if self.margin <= 0:
            raise ValueError(f"margin must be positive, not {self.margin}")

    def formula(self) -> str:
        """The maximised objective of a pair; s_w and s_l are the scores of the better and the worse answer."""
        return f"−max(0, {self.margin:g} − β (s_w − s_l))²"

    def losses(self, pairs: Pairs) -> Tensor:
        """Float32 [P], one number a pair, differentiable through `pairs.margin` [P], the difference of the scores."""
        return (self.margin - pairs.beta * pairs.margin).clamp_min(0) ** 2
