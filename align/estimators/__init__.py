"""Estimators: how a divergence is measured from what was sampled. Value and gradient are different things: each names both.

Published forms keep their published name and their published bias; `sampled` and `exact` have the gradient of the divergence,
`top_k` that of one with fewer outcomes.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from align.config.parts import Part
from align.core.logprobs import every_token
from align.divergences import Divergence


class Estimator(Part):
    """The contract: three elementwise functions of `log_u = log pi - log ref`, nats, all detached by the caller.

    As they stand they are the divergence's own: the value and the gradient it claims. An estimator of the full vocabulary has `outcomes`
    alone: in the loss its divergence is differentiated as it is.
    """

    weighted = False
    """Multiplied by the importance ratio of pi_theta to the policy that drew the sample."""
    full_vocabulary = False
    """Sums over the vocabulary at each visited state instead of using the sampled token."""
    only_reverse_kl = False
    """A published estimate of KL(pi||ref): it has no meaning for another divergence."""

    @property
    def published_value(self) -> str | None:
        """What the published value is, or None if it is the divergence's. Beside a coefficient that follows the value it is a bias."""
        return None

    def value(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The estimate itself, on tokens drawn from the policy."""
        return divergence.khat(log_u)

    def grad_weight(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """What multiplies the score of the sampled token when the estimate is a loss."""
        return divergence.grad_weight(log_u)

    def reward(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """What is subtracted from the token's own reward when the estimate is placed there."""
        return divergence.grad_weight(log_u)

    def published_bias(self, *, placement: str, credit: str, on_policy: bool) -> str | None:
        """What is wrong with the gradient of a form that exists as published, and what to use instead; None where none is known of.

        `allow_biased: true` runs such a form. Where this is None the gradient is compared with the divergence's by enumeration.
        """
        return None

    def outcomes(self, logp: Float[Tensor, "T V"], ref_logp: Float[Tensor, "T V"]) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]]:
        """Both distributions over the outcomes a full-vocabulary estimator tells apart, as log-probs, differentiable.

        One map for both, from tokens to outcomes, that does not depend on the policy: then the divergence of the merged is at most
        the full one (data processing), and a fixed function of the policy. Unless overridden every token is an outcome.
        """
        return every_token(logp, ref_logp)

    @property
    def merges(self) -> bool:
        """Has `outcomes` of its own: what it measures is at most the divergence."""
        return type(self).outcomes is not Estimator.outcomes


def right_on_policy_only(name: str) -> str:
    """The published bias of a loss that has the right gradient, and no importance ratio."""
    return (
        f"{name} in the loss has the gradient of KL(pi||ref) on-policy only, and here a batch serves several updates. "
        "Use estimator: sampled"
    )
