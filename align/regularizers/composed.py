import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from align.config import part
from align.core import credit
from align.core.credit import Packing
from align.describe import written
from align.regularizers import Penalty, Regularizer
from align.regularizers._incompatible import idle, incompatible
from align.types import TokenContext

CREDITS = {"local": credit.local, "summed": credit.summed, "sequence": credit.sequence}
CLAMPS = {"local": 20.0, "summed": 20.0, "sequence": 40.0}
"""Nats, by credit. A token: verl's bound. An answer: u^2 (Neyman, Tsallis at its ends) stays within float32; a long one is
tens of nats away by right."""
WORDS = {"placement": ("loss", "reward"), "credit": tuple(CREDITS), "ratio_to": ("old", "sampler"), "beyond_cap": ("truncate", "mask")}


@dataclass(frozen=True)
class Composed(Regularizer):
    """beta * w * D_f(pi||ref), estimated, credited and placed as the recipe says.

    In the loss the term is `value + coefficient * (log pi - sg(log pi))`: its value is the estimate and its gradient is
    exactly `coefficient * grad log pi`, so no estimator is differentiated by accident. In the reward the coefficient is
    subtracted from the advantage, after any normalisation (a group's standard deviation would rescale beta), and it is that of
    the policy being updated. The surrogate multiplies an advantage by the token's own ratio, so a weighted coefficient is
    divided by it: unclipped, both placements have the same gradient at every update of a batch.
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
    ratio_to: str = "old"
    """Whom samples are weighed against: `old`, the learner's weights that began the batch (pi/pi_old), or `sampler`, the engine's own
    log-probs (pi/mu), which also corrects for what the engine computes differently."""
    ratio_cap: float | None = None
    """Largest importance weight, above 1: of the token, the answer up to it or the whole answer, as the credit weighs. Biased where it
    cuts; the metric `capped/NAME` is the share of those tokens."""
    beyond_cap: str = "truncate"
    """`truncate` a larger weight to the cap, or `mask` it to 0."""
    clamp: float | None = None
    """Nats: a log-ratio log pi/ref beyond it counts as this much in value and coefficient; the gradient does not vanish there. Of a
    token, default 20; of the answer under `credit: sequence`, default 40. The metric `clamped/NAME` is the share of those tokens."""
    allow_biased: bool = False
    """Run a published form whose gradient is not that of the divergence it claims."""

    def __post_init__(self):
        for key, known in WORDS.items():
            if getattr(self, key) not in known:
                raise ValueError(f"{key} must be one of {', '.join(known)}, not {getattr(self, key)!r}")
        if self.ratio_cap is not None and not 1 < self.ratio_cap < math.inf:
            raise ValueError(f"ratio_cap must be above 1, the weight of a sample of the policy itself, and finite, not {self.ratio_cap}")
        if self.ratio_cap is None and self.beyond_cap != "truncate":
            raise ValueError("beyond_cap changes nothing without ratio_cap")
        if self.clamp is not None and not 0 < self.clamp < math.inf:
            raise ValueError(f"clamp must be positive and finite, not {self.clamp}")

    @property
    def full_vocabulary(self) -> bool:
        return self.estimator.full_vocabulary

    @property
    def merges(self) -> bool:
        return self.estimator.merges

    @property
    def largest_log_ratio(self) -> float:
        """Nats: `clamp`, or its default under this credit."""
        return CLAMPS[self.credit] if self.clamp is None else self.clamp

    @property
    def weighs_samples(self) -> bool:
        """Carries an importance weight: something was sampled, and the estimator accounts for who drew it."""
        return self.estimator.weighted and not (self.full_vocabulary and self.credit == "local")

    def outcomes(self, logp: Tensor, ref_logp: Tensor) -> tuple[Tensor, Tensor]:
        return self.estimator.outcomes(logp, ref_logp)

    def refusal(self, *, on_policy: bool, samples: bool) -> str | None:
        if not samples and getattr(self.weighting, "needs_rewards", False):
            return f"weighting {written(self.weighting)} looks at rewards, and demonstrations have none: use another"
        reason = incompatible(self.divergence, self.estimator, self.placement, self.credit, on_policy=on_policy, samples=samples)
        if reason is None and self.allow_biased:
            return "allow_biased changes nothing: this form has the gradient it claims"
        if reason is None or (reason.biased and self.allow_biased):
            return idle(self, on_policy=on_policy, samples=samples)
        return reason.text + (", or set allow_biased: true to run it as published" if reason.biased else "")

    def penalty(self, ctx: TokenContext, name: str) -> Penalty:
        weights = ctx.batch.penalty_weights[name]
        at = Packing(ctx.batch.seq_ids, ctx.batch.positions)
        rho, shares = self._importance(ctx, at)
        if self.full_vocabulary:
            divergence = weights * ctx.exact[name]
            # Locally the visited states are taken as given, and at each state nothing was sampled: no ratio enters.
            loss = divergence if self.credit == "local" else credit.summed_exact(divergence, ctx.logp, rho, at)
            return Penalty(value=loss.detach(), loss=loss, shares=shares)
        log_u = ctx.logp.detach() - ctx.batch.references[name].logp
        if self.credit == "sequence":
            log_u, weights = credit.sequence_log_ratio(log_u, at), weights_of_sequences(weights, at)
        shares["clamped"] = log_u.abs() > self.largest_log_ratio
        log_u = log_u.clamp(-self.largest_log_ratio, self.largest_log_ratio)
        coefficient = self.estimator.reward if self.placement == "reward" else self.estimator.coefficient
        own = weights * coefficient(self.divergence, log_u)
        credited = CREDITS[self.credit](weights * self.estimator.value(self.divergence, log_u), own, rho, at)
        if self.placement == "reward":
            owned = torch.exp(-ctx.log_rho.detach()) if self.weighs_samples else 1.0
            return Penalty(value=credited.value, reward=credited.coefficient * owned, shares=shares)
        return Penalty(value=credited.value, loss=credited.value + credited.coefficient * (ctx.logp - ctx.logp.detach()), shares=shares)

    def _importance(self, ctx: TokenContext, at: Packing) -> tuple[Tensor | float, dict[str, Tensor]]:
        """What each token is weighed by, and which of them the cap cut."""
        if not self.weighs_samples:
            return 1.0, {}
        log_ratio = ctx.logp.detach() - (ctx.old_logp if self.ratio_to == "old" else ctx.batch.sampler_logp)
        log_weight = credit.log_weight(self.credit, log_ratio, at)
        if self.full_vocabulary:
            log_weight = log_weight - log_ratio  # of the state: the tokens before this one
        rho, beyond = credit.bounded(log_weight, self.ratio_cap or math.inf, masks=self.beyond_cap == "mask")
        return rho, {} if self.ratio_cap is None else {"capped": beyond}


def weights_of_sequences(weights: Tensor, at: Packing) -> Tensor:
    """The mean weight of a sequence, at each of its tokens: a whole answer has one divergence and so one weight."""
    return credit.sequence_log_ratio(weights, at) / credit.sequence_log_ratio(weights * 0 + 1, at)
