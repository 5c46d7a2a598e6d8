from dataclasses import dataclass
from typing import Any

from torch import Tensor

from align.config import part
from align.core import credit
from align.describe import written
from align.regularizers import Penalty, Regularizer
from align.regularizers._incompatible import incompatible
from align.types import TokenContext

CREDITS = {"local": credit.local, "summed": credit.summed, "sequence": credit.sequence}
PLACEMENTS = ("loss", "reward")


@dataclass(frozen=True)
class Composed(Regularizer):
    """beta * w * D_f(pi||ref), estimated, credited and placed as the recipe says.

    In the loss the term is `value + coefficient * (log pi - sg(log pi))`: its value is the estimate and its gradient is
    exactly `coefficient * grad log pi`, so no estimator is differentiated by accident. In the reward the coefficient is
    subtracted from the advantage, after any normalisation (a group's standard deviation would rescale beta), and it is that of
    the policy being updated, so `E[rho c grad log pi]` holds at every update of a batch; the surrogate owns rho.
    """

    divergence: Any = part("divergence", "reverse_kl")
    estimator: Any = part("estimator", "sampled")
    coefficient: Any = part("coefficient")
    weighting: Any = part("weighting", "uniform")
    reference: Any = part("reference", "frozen")
    placement: str = "loss"
    """`loss`: a term beside the policy's. `reward`: taken from the advantages."""
    credit: str = "local"
    """`local`, `summed` or `sequence`: see core/credit.py."""
    allow_biased: bool = False
    """Run a published form whose gradient is not that of the divergence it claims."""

    def __post_init__(self):
        for key, known in (("placement", PLACEMENTS), ("credit", tuple(CREDITS))):
            if getattr(self, key) not in known:
                raise ValueError(f"{key} must be one of {', '.join(known)}, not {getattr(self, key)!r}")

    @property
    def full_vocabulary(self) -> bool:
        return self.estimator.full_vocabulary

    def refusal(self, *, on_policy: bool, samples: bool) -> str | None:
        if not samples and getattr(self.weighting, "needs_rewards", False):
            return f"weighting {written(self.weighting)} looks at rewards, and demonstrations have none: use another"
        reason = incompatible(self.divergence, self.estimator, self.placement, self.credit, on_policy=on_policy, samples=samples)
        if reason is None:
            return "allow_biased changes nothing: this form has the gradient it claims" if self.allow_biased else None
        if reason.biased and self.allow_biased:
            return None
        return reason.text + (", or set allow_biased: true to run it as published" if reason.biased else "")

    def penalty(self, ctx: TokenContext, name: str) -> Penalty:
        weights = ctx.batch.penalty_weights[name]
        at = credit.Packing(ctx.batch.seq_ids, ctx.batch.positions)
        log_rho = ctx.log_rho.detach() if self.estimator.weighted else None
        if self.full_vocabulary:
            return _exact(self.credit, weights * ctx.exact[name], ctx.logp, log_rho, at)
        log_u = ctx.logp.detach() - ctx.batch.references[name].logp
        if self.credit == "sequence":
            log_u, weights = credit.sequence_log_ratio(log_u, at), weights_of_sequences(weights, at)
        value = weights * self.estimator.value(self.divergence, log_u)
        if self.placement == "reward":
            own = weights * self.estimator.reward(self.divergence, log_u)
            # The surrogate owns the ratio of the coefficient, but nobody else that of the estimate.
            reward = CREDITS[self.credit](value, own, None, at).coefficient
            return Penalty(value=CREDITS[self.credit](value, own, log_rho, at).value, reward=reward)
        own = weights * self.estimator.coefficient(self.divergence, log_u)
        credited = CREDITS[self.credit](value, own, log_rho, at)
        return Penalty(value=credited.value, loss=credited.value + credited.coefficient * (ctx.logp - ctx.logp.detach()))


def weights_of_sequences(weights: Tensor, at: credit.Packing) -> Tensor:
    """The mean weight of a sequence, at each of its tokens: a whole answer has one divergence and so one weight."""
    return credit.sequence_log_ratio(weights, at) / credit.sequence_log_ratio(weights * 0 + 1, at)


def _exact(how: str, divergence: Tensor, logp: Tensor, log_rho: Tensor, at: credit.Packing) -> Penalty:
    # Locally the visited states are taken as given, and at each state nothing was sampled: no ratio enters.
    loss = divergence if how == "local" else credit.summed_exact(divergence, logp, log_rho, at)
    return Penalty(value=loss.detach(), loss=loss)
