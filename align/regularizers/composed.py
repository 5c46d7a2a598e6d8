import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.config.docstrings import format_part
from align.config.nodes import part
from align.config.parts import Setting
from align.config.returned import Returned
from align.contexts import TokenContext
from align.core import credit
from align.core.credit import Packing, Ratio
from align.core.links import link
from align.core.segments import segment_sum
from align.regularizers import Penalty, Regularizer
from align.regularizers._cells import bias_of, meaningless, word_of
from align.types import RewardPenalty, TokenBatch

CREDITS = {"local": credit.local, "summed": credit.summed, "sequence": credit.sequence}
CLAMPS = {"local": 20.0, "summed": 20.0, "sequence": 40.0}
"""Nats, by credit. A token: verl's bound. An answer: u^2 (Neyman, Tsallis at its ends) stays within float32; a long one is
tens of nats away by right."""
FAR = 5.0
"""Nats: a log-ratio that any bound of a surrogate cuts."""
LOST = 60.0
"""Nats: where a surrogate multiplies by less than e^-60 it has no gradient left in float32 to give back."""
WORDS = {
    "placement": ("loss", "reward", "link"),
    "credit": tuple(CREDITS),
    "ratio_to": ("old", "sampler"),
    "beyond_cap": ("truncate", "mask"),
}


@dataclass(frozen=True)
class Composed(Regularizer):
    """beta * w * D_f(pi||ref), estimated, credited and placed as the recipe says.

    In the loss a sampled term is `value + grad_weight * (log pi - sg(log pi))`: its value is the estimate and its gradient is
    exactly `grad_weight * grad log pi`, so no estimator is differentiated by accident. An exact term is the divergence itself, which the
    head differentiates. In the reward `grad_weight` is subtracted from the advantage, after any normalisation (a group's standard
    deviation would rescale beta), at the policy being updated. The surrogate multiplies an advantage by its effective ratio, so a
    weighted `grad_weight` is divided by that: unclipped, both placements have the same gradient at every update of a batch.
    """

    divergence: Any = part("divergence", "reverse_kl")
    estimator: Any = part("estimator", "sampled")
    coefficient: Any = part("coefficient")
    weighting: Any = part("weighting", "uniform")
    reference: Any = part("reference", "frozen")
    placement: str = "loss"
    """`loss`: a term beside the policy's. `reward`: taken from the advantages; where the algorithm has a critic, from the token rewards it
    learns. `link`: inside a loss of implicit rewards (preferences, log-variance), which are beta (f'(u) - f'(1)) of the whole answer."""
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
        whole_answer = self.credit == "sequence" or self.placement == "link"
        return CLAMPS["sequence" if whole_answer else self.credit] if self.clamp is None else self.clamp

    @property
    def weighs_samples(self) -> bool:
        """Carries an importance weight: something was sampled, and the estimator accounts for who drew it."""
        return self.estimator.weighted and not (self.full_vocabulary and self.credit == "local")

    def outcomes(self, logp: Float[Tensor, "T V"], ref_logp: Float[Tensor, "T V"]) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]]:
        return self.estimator.outcomes(logp, ref_logp)

    @property
    def warning(self) -> str | None:
        if self.placement == "link" and not self.divergence.full_support:
            return (
                f"{format_part(self.divergence)} as a link: f'(0) is finite, so the optimum may give up answers altogether, and the f-DPO "
                "loss does not have it as its minimum (Wang et al. 2309.16240 need f'(0) = -inf)"
            )
        return None

    def bias(self, setting: Setting) -> str | None:
        if self.placement == "link":
            return None
        return bias_of(self.divergence, self.estimator, self.placement, self.credit, on_policy=setting.on_policy)

    def refuse(self, setting: Setting) -> str | None:
        if reason := meaningless(self.divergence, self.estimator, self.placement, self.credit, samples=setting.samples):
            return reason
        return self._idle(setting) or self._misweighed(setting)

    def _idle(self, setting: Setting) -> str | None:
        """Why a key that was given changes nothing here, or None. One that holds its default is as good as not given."""
        given = [key for key, is_given in (("ratio_to", self.ratio_to != "old"), ("ratio_cap", self.ratio_cap is not None)) if is_given]
        why = self._weightless(setting)
        if given and why is not None:
            return f"{given[0]} changes nothing: {why}"
        if self.ratio_cap is not None and setting.on_policy and self.ratio_to == "old":
            return "ratio_cap changes nothing: each batch serves one update, so pi is pi_old and every weight is 1"
        if self.clamp is not None and self.full_vocabulary and self.placement != "link":
            return (
                f"clamp changes nothing: {word_of(self.estimator)} weighs every outcome by its probability, so no sampled token can "
                "be an outlier"
            )
        return None

    def _weightless(self, setting: Setting) -> str | None:
        """Why no importance weight enters, or None."""
        if self.placement == "link":
            return "a link weighs no samples"
        if not setting.samples:
            return "demonstrations were not sampled, so there are no sampler log-probs and no importance weight"
        if not self.weighs_samples:
            return (
                "at a visited state the exact divergence samples nothing (credit: local)"
                if self.full_vocabulary
                else f"{word_of(self.estimator)} as published has no importance weight; estimator: sampled has"
            )
        if setting.recipe.algorithm.critic is not None and self.placement == "reward":
            return "with a critic the penalty is taken at pi_old, where no ratio enters"
        return None

    def _misweighed(self, setting: Setting) -> str | None:
        """Why the penalty in the reward would not have its own gradient under the surrogate of several updates, or None."""
        surrogate = setting.recipe.algorithm.surrogate
        if self.placement != "reward" or setting.on_policy or surrogate is None:
            return None
        word = format_part(surrogate)
        if self.weighs_samples:
            varies = surrogate.ratio_varies
            return varies and f"surrogate {word} and placement: reward do not go together off-policy: {varies}, or use placement: loss"
        at = Packing(torch.zeros(3, dtype=torch.int64), torch.arange(3))
        log_rho = torch.tensor([-FAR, 0.1, FAR], dtype=torch.float64)
        if self.allow_biased or (not surrogate.ratio_varies and torch.equal(surrogate.effective_log_ratio(log_rho, at), log_rho)):
            return None
        return (
            f"{word_of(self.estimator)} in the reward is weighed by the surrogate's ratio, and that of {word} is not the token's: "
            "use estimator: sampled"
        )

    def penalty(self, ctx: TokenContext, name: str) -> Penalty:
        at = Packing(ctx.batch.seq_ids, ctx.batch.positions)
        if self.placement == "link":
            return self._link(ctx, name, at)
        rho, shares = self._importance(ctx, at)
        if self.full_vocabulary:
            divergence = ctx.batch.penalty_weights[name] * ctx.exact[name]
            # Locally the visited states are taken as given, and at each state nothing was sampled: no ratio enters.
            loss = divergence if self.credit == "local" else credit.summed_exact(divergence, ctx.logp, rho, at)
            return Penalty(value=loss.detach(), loss=loss, shares=shares)
        value, own, clamped = self._estimates(ctx.logp.detach(), ctx.batch, name, at)
        shares["clamped"] = clamped
        credited = CREDITS[self.credit](value, own, rho, at)
        if self.placement == "reward":
            log_ratio = ctx.log_rho.detach() if ctx.surrogate_log_ratio is None else ctx.surrogate_log_ratio
            owned = torch.exp((-log_ratio).clamp_max(LOST)) if self.weighs_samples else 1.0
            return Penalty(value=credited.value, reward=credited.grad_weight * owned, shares=shares)
        return Penalty(value=credited.value, loss=credited.value + credited.grad_weight * (ctx.logp - ctx.logp.detach()), shares=shares)

    def reward_penalty(self, batch: TokenBatch, name: str) -> RewardPenalty:
        """Under `credit: summed` a token's reward loses the value, and its own advantage what the derivative has beyond that."""
        assert batch.old_logp is not None  # a batch is scored before its rewards are judged
        value, own, _ = self._estimates(batch.old_logp, batch, name, Packing(batch.seq_ids, batch.positions))
        if self.credit == "summed":
            return RewardPenalty(discounted=value, direct=own - value)
        return RewardPenalty(discounted=torch.zeros_like(own), direct=own)

    def _estimates(
        self, logp: Float[Tensor, "T"], batch: TokenBatch, name: str, at: Packing
    ) -> tuple[Float[Tensor, "T"], Float[Tensor, "T"], Bool[Tensor, "T"]]:
        """Value and gradient weight of each token, weighted, and which log-ratios were clamped."""
        log_u, weights = logp - batch.ref_logp[name], batch.penalty_weights[name]
        if self.credit == "sequence":
            log_u, weights = credit.sequence_sum(log_u, at), weights_of_sequences(weights, at)
        clamped = log_u.abs() > self.largest_log_ratio
        log_u = log_u.clamp(-self.largest_log_ratio, self.largest_log_ratio)
        own = "reward" if self.placement == "reward" else "grad_weight"
        return weights * self._estimate("value", log_u, name), weights * self._estimate(own, log_u, name), clamped

    def _estimate(self, method: str, log_u: Float[Tensor, "*shape"], name: str) -> Float[Tensor, "*shape"]:
        """What this method of the estimator says of each log-ratio. Raises RecipeError for another shape."""
        found = getattr(self.estimator, method)(self.divergence, log_u)
        return Returned(self.estimator, method, f"regularizers.{name}.estimator").like(found, log_u, "one for each log-ratio")

    def _link(self, ctx: TokenContext, name: str, at: Packing) -> Penalty:
        """The weighting chooses the tokens of an answer that its log-ratio counts (SamPO)."""
        log_u = ctx.logp - ctx.batch.ref_logp[name]
        answers = len(ctx.batch.lengths)
        log_ratio = segment_sum(ctx.batch.penalty_weights[name] * log_u, at.seq_ids, answers)
        value = ctx.exact[name].detach() if self.full_vocabulary else self._estimate("value", log_u.detach(), name)
        beyond = log_ratio.detach().abs() > self.largest_log_ratio
        return Penalty(
            value=value,
            link=link(self.divergence.grad_weight, log_ratio, self.largest_log_ratio),
            log_ratio=log_ratio.detach(),
            shares={"clamped": beyond},
        )

    def _importance(self, ctx: TokenContext, at: Packing) -> tuple[Ratio, dict[str, Bool[Tensor, "T"]]]:
        """What each token is weighed by, and which of them the cap cut."""
        if not self.weighs_samples:
            return 1.0, {}
        drawn_by = ctx.old_logp if self.ratio_to == "old" else ctx.batch.sampler_logp
        assert drawn_by is not None  # `ratio_to: sampler` is refused where no engine drew the answers
        log_ratio = ctx.logp.detach() - drawn_by
        log_weight = credit.log_weight(self.credit, log_ratio, at)
        if self.full_vocabulary:
            log_weight = log_weight - log_ratio  # of the state: the tokens before this one
        rho, beyond = credit.bounded(log_weight, self.ratio_cap or math.inf, masks=self.beyond_cap == "mask")
        return rho, {} if self.ratio_cap is None else {"capped": beyond}


def weights_of_sequences(weights: Float[Tensor, "T"], at: Packing) -> Float[Tensor, "T"]:
    """The mean weight of a sequence, at each of its tokens: a whole answer has one divergence and so one weight."""
    return credit.sequence_sum(weights, at) / credit.sequence_sum(weights * 0 + 1, at)
