from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval
from torch import Tensor

from align.config.parts import Setting
from align.config.ranges import Count, Seed
from align.core.logprobs import Head
from align.experience.disturbed_prompts import drawn, without
from align.learner.parameters import OWN, Override
from align.references import Reference, RunningReference
from align.references._policy_head import taken

if TYPE_CHECKING:
    from align.learner.policy import Policy
    from align.types import TokenBatch


@dataclass(frozen=True)
class Disturbed(Reference):
    """The policy itself after a prompt of which tokens are left out or masked: consistency between two contexts.

    The idea of R-Drop (Liang et al. 2106.14448) and of VOGUE's second context (2510.01444) as a penalty, here for text; ours. The policy
    is held to what it answers without the tokens: by default the disturbed branch has no gradient. With `gradient: both` the penalty
    is D_f(pi||pi') of two branches that both learn, for example with `divergence: jeffreys`. The draw follows from `seed`, the step
    and the prompt.
    """

    starts_at_policy = False
    changes = True

    share: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    """Of the tokens before the first trained one but the last."""
    mask_id: Count | None = None
    """The token id written over a disturbed token; null leaves it out."""
    gradient: str = "policy"
    """`policy`, or `both` branches: one forward and backward pass more."""
    seed: Seed = 0

    def __post_init__(self):
        if self.gradient not in ("policy", "both"):
            raise ValueError(f"gradient must be policy or both, not {self.gradient!r}")

    def refuse(self, setting: Setting) -> str | None:
        of = setting.regularizer
        if self.gradient == "policy":
            return None
        if of.reference is not self or not of.full_vocabulary or of.placement != "loss" or of.credit != "local" or of.merges:
            return "gradient: both is of a divergence between two distributions: use estimator: exact, placement: loss and credit: local"
        if not of.divergence.is_f_divergence:
            return "gradient: both needs an f-divergence, whose gradient in the second distribution is that of its mirror image"
        if not setting.on_policy:
            return "gradient: both compares two branches of the same weights: set algorithm.epochs and algorithm.minibatches to 1"
        return None

    def start(self, policy: Policy) -> RunningReference:
        return _Disturbed(policy, self)

    def holds(self, lora: bool) -> str:
        return "nothing" if lora else "a copy of the head"

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        return 0


class _Disturbed(RunningReference):
    def __init__(self, policy: Policy, keys: Disturbed):
        super().__init__(policy)
        self._keys, self._head = keys, taken(policy)

    def before_batch(self) -> None:
        self._head = taken(self.policy)
        self.version += 1

    def parameters(self) -> Override:
        return OWN

    def hidden(self, micro: TokenBatch) -> Tensor:
        return self.policy.hidden(self._other(micro))

    def head(self) -> Head:
        return self._head

    def branch(self, micro: TokenBatch) -> TokenBatch | None:
        return self._other(micro) if self._keys.gradient == "both" else None

    def _other(self, micro: TokenBatch) -> TokenBatch:
        return without(micro, drawn(micro, self._keys.share, self._keys.seed), self._keys.mask_id)

    def content_hash(self) -> str:
        return self.compute_hash()  # the policy moves between two versions
