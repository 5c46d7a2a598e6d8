from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from align.learner.parameters import OWN, Override
from align.references import Reference, RunningReference

if TYPE_CHECKING:
    from align.learner.policy import Policy
    from align.types import TokenBatch


@dataclass(frozen=True)
class Sampler(Reference):
    """Mu, what the engine drew the answers from, by the engine's own log-probs: no forward pass and no memory.

    A penalty against it holds the policy where it was sampled: stale weights and another precision count as distance. Kimi K2.5
    (2602.02276) adds `tau (log pi/mu)^2` to the loss: estimator k2 at coefficient 2 tau. On-policy, with an engine that computes as the
    learner does, it is 0.
    """

    starts_at_policy = False
    tokens_only = True

    def start(self, policy: Policy) -> RunningReference:
        return _Mu(policy)

    def holds(self, lora: bool) -> str:
        return "nothing"

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        return 0


class _Mu(RunningReference):
    def parameters(self) -> Override:
        return OWN

    def known(self, micro: TokenBatch) -> Tensor | None:
        return micro.sampler_logp

    def compute_hash(self) -> str:
        return "00" * 8
