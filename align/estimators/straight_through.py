from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from align.config.parts import Setting
from align.divergences import Divergence
from align.estimators import Estimator, right_on_policy_only
from align.estimators.abs import Abs
from align.estimators.k1 import K1
from align.estimators.k3 import K3

VALUES = {"k1": K1(), "k3": K3(), "abs": Abs()}


@dataclass(frozen=True)
class StraightThrough(Estimator):
    """The value of one estimate with the gradient of another, k2, as published (verl's `k1+`, `k3+`, `abs+`): no importance ratio.

    On-policy, of k3 it is `sampled`. Off-policy it lacks the ratio, and its gradient is that of k2 there: not KL(pi||ref)'s. In the
    reward it would be its value alone.
    """

    only_reverse_kl = True

    of: str = "k3"
    """Whose value: `k1`, `k3` or `abs`."""

    def __post_init__(self):
        if self.of not in VALUES:
            why = ": k2 has this gradient by itself, use estimator: k2" if self.of == "k2" else f", not {self.of!r}"
            raise ValueError(f"of must be one of {', '.join(VALUES)}{why}")

    @property
    def published_value(self) -> str | None:
        return "E_pi|log u| as published, at least KL(pi||ref)" if self.of == "abs" else None

    def value(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return VALUES[self.of].value(divergence, log_u)

    def grad_weight(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return log_u

    def reward(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.value(divergence, log_u)

    def published_bias(self, *, placement: str, credit: str, on_policy: bool) -> str | None:
        return None if on_policy else right_on_policy_only("straight_through")

    def refuse(self, setting: Setting) -> str | None:
        if setting.regularizer.placement == "reward":
            return f"a reward has no gradient of its own, so straight_through changes nothing there: use estimator: {self.of}"
        return None
