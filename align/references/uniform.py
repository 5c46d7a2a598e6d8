from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from align.core.logprobs import Head
from align.learner.parameters import OWN, Override
from align.references import Reference, RunningReference

if TYPE_CHECKING:
    from align.learner.policy import Policy
    from align.types import TokenBatch


@dataclass(frozen=True)
class Uniform(Reference):
    """Every token of the vocabulary alike: each divergence becomes an entropy of the policy, and costs no forward pass.

    `KL(pi||U) = log V - H(pi)`, so with it `beta` is the coefficient of an entropy bonus (TRL's and verl's `entropy_coef`); Tsallis gives
    the Tsallis entropy, `D_q(pi||U) = (V^(q-1) - 1)/(q - 1) - V^(q-1) S_q(pi)`, and Renyi the Renyi entropy. V counts the
    tokens of the tokenizer, not the rows that pad a model's vocabulary.
    """

    starts_at_policy = False

    def start(self, policy: Policy) -> RunningReference:
        return _Alike(policy)

    def holds(self, lora: bool) -> str:
        return "nothing"

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        return 0


class _Alike(RunningReference):
    def __init__(self, policy: Policy):
        super().__init__(policy)
        weight = policy.head().weight
        # Any states give equal logits through a head of zeros; one column is the cheapest.
        self._head = Head(weight=torch.zeros(len(weight), 1, dtype=weight.dtype, device=weight.device))

    def parameters(self) -> Override:
        return OWN

    def hidden(self, micro: TokenBatch) -> Tensor:
        return self._head.weight.new_zeros(len(micro.seq_ids), 1)

    def head(self) -> Head:
        return self._head

    def known(self, micro: TokenBatch) -> Tensor:
        return torch.full((len(micro.seq_ids),), -math.log(len(self._head.weight)))

    def compute_hash(self) -> str:
        return f"{len(self._head.weight):016x}"
