import torch
from jaxtyping import Float
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence
from align.estimators import Estimator


class K3(Estimator):
    """k3 = ref/pi - 1 - log ref/pi (Schulman 2020), as published in GRPO (2402.03300, equation 4): no importance ratio.

    Unbiased for KL(pi||ref) in value. As a loss it descends KL(ref||pi), the forward KL; in the reward its gradient is
    grad KL(pi||ref) - grad KL(ref||pi), which vanishes to first order near the reference. `sampled` is the corrected form.
    """

    only_reverse_kl = True

    def value(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.expm1(-closed_forms.within(log_u, below=1.0)) + log_u

    def grad_weight(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return -torch.expm1(-closed_forms.within(log_u, below=1.0))

    def reward(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.expm1(-closed_forms.within(log_u, below=1.0)) + log_u

    def published_bias(self, *, placement: str, credit: str, on_policy: bool) -> str | None:
        if placement == "reward":
            return "k3 in the reward does not have the gradient of KL(pi||ref): use estimator: sampled or k1"
        return (
            "k3 in the loss descends the forward KL(ref||pi), not KL(pi||ref). Use estimator: sampled, or say "
            "divergence: forward_kl with estimator: sampled"
        )
