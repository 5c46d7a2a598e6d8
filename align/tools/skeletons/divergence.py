"""A divergence: a convex function f of u = pi/ref with f(1) = 0. Its mean under the reference is D_f(pi||ref), in nats.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    regularizers: {kl: {divergence: "./skeleton.py:Skeleton", coefficient: 0.1}}
"""

from torch import Tensor

from align.divergences import Divergence


class Skeleton(Divergence):
    """Squared Hellinger distance: f(u) = scale (sqrt(u) - 1)^2."""

    scale: float = 1.0

    def __post_init__(self):
        if self.scale <= 0:
            raise ValueError(f"scale must be positive, not {self.scale}")

    def f(self, log_u: Tensor) -> Tensor:
        """Elementwise, of log u; derivatives follow by autograd. Closed forms that are more accurate: `align.divergences`."""
        return self.scale * (log_u / 2).expm1() ** 2
