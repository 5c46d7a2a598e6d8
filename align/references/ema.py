from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from align.references import Reference, RunningReference

if TYPE_CHECKING:
    from align.learner.policy import Policy


@dataclass(frozen=True)
class Ema(Reference):
    """A moving average of the policy: every `every` optimizer steps, ref <- rate * policy + (1 - rate) * ref.

    TR-DPO's soft update (Gorbatovski et al. 2404.09656, equation 3) with TRL's period. The average is kept in float32: in
    bfloat16 a small rate rounds away and the reference never moves. With LoRA the average is over the adapter.
    """

    changes = True

    rate: float = 0.6
    every: int = 1

    def __post_init__(self):
        if not 0 < self.rate < 1 or self.every < 1:
            raise ValueError(
                "rate must lie in (0, 1) and every must be at least 1 (rate: 0 is `reference: frozen`, rate: 1 is `reference: hard_reset`)"
            )

    def start(self, policy: Policy) -> RunningReference:
        return _Average(policy, self.rate, self.every)

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        return 4 * trained


class _Average(RunningReference):
    def __init__(self, policy: Policy, rate: float, every: int):
        super().__init__(policy)
        self._rate, self._every = rate, every
        self._shadow = {n: p.detach().float().clone() for n, p in policy.trained()}

    def parameters(self) -> dict[str, Tensor]:
        return self._shadow

    def after_step(self, step: int) -> None:
        if step % self._every == 0:
            for name, p in self.policy.trained():
                self._shadow[name] = torch.lerp(self._shadow[name], p.detach().float(), self._rate)
            self.version += 1

    def state_dict(self) -> dict[str, Any]:
        return self._shadow

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._shadow = {name: state[name] for name in self._shadow}
