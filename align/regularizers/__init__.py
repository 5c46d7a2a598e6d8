"""Regularizers: divergence x estimator x placement x credit x coefficient x weighting x reference, composed once.

`composed.py` is that product and what a recipe means when it names no other. A file beside it (or a plugin) is the escape
hatch for what is not an f-divergence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from align.coefficients import Coefficient
from align.config.parts import Part, Setting
from align.contexts import TokenContext
from align.core.logprobs import every_token
from align.references import Reference
from align.types import RewardPenalty, TokenBatch
from align.weightings import Weighting

ALLOW = ", or set allow_biased: true to run it as published"
"""What a recipe is told beside a bias."""


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """What a regularizer makes of one micro-batch, before beta and before the reduction. Exactly one of `loss`, `reward` and `link`.

    `tokens` is T in the learner, and the shape of the log-probs that `align.penalty` was given.
    """

    value: Float[Tensor, "*tokens"]
    """float32, detached: the estimate, which is logged and which an adaptive coefficient sees."""
    loss: Float[Tensor, "*tokens"] | None = None
    """float32, differentiable: added to the loss."""
    reward: Float[Tensor, "*tokens"] | None = None
    """float32, detached: subtracted from each token's advantage."""
    link: Float[Tensor, "S"] | None = None
    """float32, differentiable: the score of each whole answer, whose beta-fold is its implicit reward."""
    log_ratio: Float[Tensor, "S"] | None = None
    """float32, detached, nats: log pi/ref of each whole answer, beside `link`."""
    shares: Mapping[str, Bool[Tensor, "*entries"]] = field(default_factory=dict)
    """Of each token, or beside `link` of each answer, by name: `clamped` is logged as the share `clamped/NAME` of them."""


class Regularizer(Part, ABC):
    """The contract: everything the loop, `explain` and the learner ask of a regularizer."""

    default_name = "composed"

    coefficient: Any
    """A Coefficient."""
    weighting: Any = None
    """A Weighting; None weighs all alike."""
    reference: Any = None
    """A Reference; None where nothing is compared with."""
    placement: str = "loss"
    """Which of the three its Penalty fills: loss, reward or link."""
    full_vocabulary = False
    """Asks the learner for `ctx.exact`, the divergence over the vocabulary."""
    merges = False
    """`outcomes` merges tokens, so `ctx.exact` is at most the divergence."""
    allow_biased: bool = False

    def outcomes(self, logp: Float[Tensor, "T V"], ref_logp: Float[Tensor, "T V"]) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]]:
        """What `ctx.exact` is taken over: log-probs (see Estimator.outcomes)."""
        return every_token(logp, ref_logp)

    @abstractmethod
    def penalty(self, ctx: TokenContext, name: str) -> Penalty:
        """The penalty on a micro-batch; `name` finds its own entries in the batch."""

    def reward_penalty(self, batch: TokenBatch, name: str) -> RewardPenalty | None:
        """What it takes from token rewards at pi_old, before beta, where a critic learns them; None: it cannot be placed there."""
        return None

    @property
    def warning(self) -> str | None:
        """What a user of it as configured should know, though it runs."""
        return None

    def bias(self, setting: Setting) -> str | None:
        """The published bias of a form that has a meaning here, or None. A recipe refuses it unless `allow_biased` is set.

        Where this is None and a divergence is named, value and gradient are measured by enumeration (`oracle/verdict.py`).
        """
        return None

    def misfit(self, setting: Setting) -> str | None:
        for key, held, optional in (("coefficient", Coefficient, False), ("weighting", Weighting, True), ("reference", Reference, True)):
            found = getattr(self, key, None)
            if not isinstance(found, held) and not (optional and found is None):
                return (
                    f"{key} of {type(self).__name__} must be a {held.__name__}, not {found!r:.60}: annotate the key as "
                    f'`{key}: Any = align.config.nodes.part("{key}")`, which builds one'
                )
        algorithm = setting.recipe.algorithm
        if algorithm.critic is not None and self.placement == "reward" and type(self).reward_penalty is Regularizer.reward_penalty:
            return (
                f"cannot be taken from the rewards that a critic learns: {type(self).__name__} has no `reward_penalty`; use placement: loss"
            )
        return None


def referenced(regularizers: Mapping[str, Regularizer]) -> list[str]:
    """Those that have a reference, in the recipe's order."""
    return [name for name, r in regularizers.items() if r.reference is not None]
