"""The link between a policy and the reward it is optimal for: from the log-ratio of an answer to its implicit reward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def link(grad_weight: Callable[[Tensor], Tensor], log_ratio: Float[Tensor, "*shape"], limit: float) -> Float[Tensor, "*shape"]:
    """The score f'(u) - f'(1) of answers (f-DPO, Wang et al. 2309.16240) from their log-ratios, nats; differentiable once.

    `grad_weight`: the divergence's own, f'(u) - f'(1) at log u.

    Beyond +-`limit` it goes on along its tangent: an exponential would overflow there, and a clamp leave no gradient to the answers
    that have drifted farthest. KL(pi||ref), whose score is the log-ratio, is its own tangent.
    """
    with torch.enable_grad():
        at = log_ratio.detach().double().clamp(-limit, limit).requires_grad_()
        score = grad_weight(at)
        (slope,) = torch.autograd.grad(score.sum(), at)
    return score.detach().to(log_ratio.dtype) + slope.to(log_ratio.dtype) * (log_ratio - at.detach().to(log_ratio.dtype))


def accuracy(chosen: Float[Tensor, "P"], rejected: Float[Tensor, "P"]) -> Float[Tensor, "P"]:
    """1 where the chosen answer scores higher, 1/2 at a tie, else 0; in the type of the scores."""
    return 0.5 * (1 + torch.sign(chosen.detach() - rejected.detach()))
