"""A regularizer: a penalty that is no f-divergence with one of the estimators of `align list estimator`.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    regularizers: {mine: {name: "./skeleton.py:Skeleton", coefficient: 0.1}}
"""

from typing import Any

import torch

from align.config.nodes import part
from align.contexts import TokenContext
from align.regularizers import Penalty, Regularizer


class Skeleton(Regularizer):
    """The expected number of tokens that are less likely than `floor` under the policy: one each, weighed by pi/pi_old."""

    coefficient: Any = part("coefficient", 0.1)
    floor: float = 0.01
    """A probability."""

    def __post_init__(self):
        if not 0 < self.floor < 1:
            raise ValueError(f"floor must be between 0 and 1, not {self.floor}")

    def penalty(self, ctx: TokenContext, name: str) -> Penalty:
        """Of a micro-batch, before the coefficient: the value, detached, and the loss, differentiable, float32 [T] both.

        `ctx.logp` [T], nats, is the policy's; with a key `reference: Any = part("reference", "frozen")` the reference's is in
        `ctx.batch.ref_logp[name]`, and with `weighting: Any = part("weighting", "uniform")` the weights are in
        `ctx.batch.penalty_weights[name]`.
        """
        unlikely = ctx.logp.detach().exp() < self.floor
        loss = torch.where(unlikely, ctx.log_rho.exp(), 0.0)
        return Penalty(value=loss.detach(), loss=loss, shares={"unlikely": unlikely})
