from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from align.core.logprobs import Head
from align.errors import UserError
from align.references import Reference, RunningReference

if TYPE_CHECKING:
    from align.learner.policy import Policy
    from align.types import TokenBatch


@dataclass(frozen=True)
class Window(Reference):
    """The last policies, by the mean of their log-probs, normalised; one is taken every `every` optimizer steps, at first the initial one.

    KL regularisation averages: repeated steps `pi_{k+1} prop pi_k^b exp(a Q_k)` make the policy a mean of all past Q, with weights b^i
    (Vieillard et al. 2003.14089). StaQ (2506.13862) keeps the last M of them, with the weights `(1 - b) b^i/(1 - b^M)`. Here, our analogue
    for language models, the mean is that of the logits of the last policies, and `decay` is b: their geometric mean, so
    `KL(pi||window)` is the mean of the KLs to them plus a constant. Every exact form works. Costs `last` forward passes a batch.
    """

    changes = True

    last: int = 4
    """Policies in the window, from 2; until there are so many, those there are."""
    every: int = 10
    """Optimizer steps between two of them."""
    decay: float = 1.0
    """Weight of a policy relative to the next newer one, (0, 1]; 1 weighs all alike."""

    def __post_init__(self):
        if self.last < 2 or self.every < 1:
            raise ValueError("last must be at least 2 and every at least 1 (the last policy alone is `reference: hard_reset`)")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must lie in (0, 1], not {self.decay:g}")

    def start(self, policy: Policy) -> RunningReference:
        if policy.head().softcap is not None:
            raise UserError(
                "reference window: this model caps its logits, and no head has the mean of capped logits: use ema or hard_reset"
            )
        return _Window(policy, self)

    def holds(self, lora: bool) -> str:
        return f"up to {self.last} copies of the {'adapter' if lora else 'trained parameters'}, and as many heads while it is compared"

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        return self.last * trained * width


class _Window(RunningReference):
    def __init__(self, policy: Policy, part: Window):
        super().__init__(policy)
        self._part, self._count = part, 1
        # All slots exist from the start, as a checkpoint is read into the structure there is. Newest first.
        self._slots = [self._taken()] * part.last

    def _taken(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.policy.trained()}

    def parameters(self) -> dict[str, Tensor]:
        return self._slots[0]

    def hidden(self, micro: TokenBatch) -> Tensor:
        """[T, count * H], the states of each policy side by side."""
        return torch.cat([self.policy.hidden(micro, slot) for slot in self._slots[: self._count]], -1)

    def head(self) -> Head:
        """One head over the states side by side, whose logits are the weighted mean of those of the policies."""
        heads = [self.policy.head(slot) for slot in self._slots[: self._count]]
        weights = [self._part.decay**i for i in range(len(heads))]
        bias = None
        if heads[0].bias is not None:
            bias = torch.stack([h.bias * w for h, w in zip(heads, weights, strict=True) if h.bias is not None]).sum(0)
        # The common factor is in the scale, where it is not rounded to the precision of the weights.
        scale = heads[0].scale / math.fsum(weights)
        return Head(weight=torch.cat([h.weight * w for h, w in zip(heads, weights, strict=True)], -1), bias=bias, scale=scale)

    def after_step(self, step: int) -> None:
        if step % self._part.every == 0:
            self._slots = [self._taken(), *self._slots[:-1]]
            self._count = min(self._count + 1, self._part.last)
            self.version += 1

    def compute_hash(self) -> str:
        held = self.policy.content_hash({f"{i}/{n}": v for i, slot in enumerate(self._slots[: self._count]) for n, v in slot.items()})
        return hashlib.blake2b(f"{self._part.decay} {held}".encode(), digest_size=8).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        return {"count": torch.tensor(self._count), "slots": {str(i): slot for i, slot in enumerate(self._slots)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._count = int(state["count"])
        self._slots = [state["slots"][str(i)] for i in range(self._part.last)]
