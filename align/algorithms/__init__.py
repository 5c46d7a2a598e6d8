"""Algorithms: what is estimated from a batch and how it is reduced. The regularizers are not an algorithm's business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from inspect import isfunction
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from align.core import reductions
from align.describe import summary
from align.types import ScoreContext, TokenBatch, TokenContext


def functions(module: ModuleType) -> list[str]:
    """The words a key may hold that names a function of this module: those it defines itself."""
    return [n for n, f in vars(module).items() if isfunction(f) and f.__module__ == module.__name__ and not n.startswith("_")]


def known(key: str, word: str, module: ModuleType) -> None:
    """Raises ValueError unless `word` names a function of the module."""
    if word not in functions(module):
        raise ValueError(f"{key} must be one of {', '.join(functions(module))}, not {word!r}")


def at_first_tokens(of_answer: Tensor, batch: TokenBatch) -> Tensor:
    """One number an answer, [S], at its first token and 0 at the others: [T], whose sum over tokens is that over answers."""
    return torch.where(batch.positions == 0, of_answer[batch.seq_ids], 0.0)


class Algorithm(ABC):
    """The contract."""

    samples = True
    """Learns from the policy's own rollouts (needs an engine and a reward); else from what the task's data holds."""
    ranks = False
    """That data are answers ranked by preference: a group's sequences stand best first, and no group is split. Else demonstrations."""
    links = False
    """Its loss is of `ctx.link`: exactly one regularizer is placed as the link."""
    scores = False
    """Trains a scorer, one number for a whole answer, instead of a policy: `loss` gets a ScoreContext."""
    compares = False
    """Its advantages compare the answers to one prompt: of an answer alone they are 0."""
    critic: Any = None
    """A Critic, trained beside the policy: `ctx.values`, `batch.values` and `targets`."""
    reduction: str
    """A function of `core/reductions.py`."""
    epochs: int = 1
    """Passes over each batch."""
    minibatches: int = 1
    """Optimizer steps in one pass."""

    def advantages(self, batch: TokenBatch) -> Tensor | None:
        """float32 [T] from the rewards of the whole batch; None where the loss uses none."""
        return None

    def targets(self, batch: TokenBatch) -> Tensor | None:
        """float32 [T], what a critic is fitted to; None without one."""
        return None

    def measures(self, batch: TokenBatch) -> dict[str, float]:
        """Metrics of the whole batch, shaped and scored."""
        return {}

    @abstractmethod
    def loss(self, ctx: TokenContext | ScoreContext, advantages: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each token, [T], to be minimised, and statistics to be averaged, each one number a token, an answer or a pair.

        `advantages` are the batch's, minus what the reward-placed regularizers take. The loss of a whole answer stands at its first token.
        """

    def formula(self) -> str:
        """What is maximised at each token, as `align explain` writes it, with the values of the keys in it."""
        return f"[{summary(type(self))}]"

    def symbols(self) -> dict[str, str]:
        """What the symbols of `formula` stand for under these keys."""
        return {}

    def check(self) -> None:
        """Raises ValueError for a key every algorithm has in common; to be called by `__post_init__`."""
        known("reduction", self.reduction, reductions)
        for key in ("epochs", "minibatches"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, not {getattr(self, key)}")

    @property
    def has_advantages(self) -> bool:
        """Its loss weighs tokens by `advantages`."""
        return type(self).advantages is not Algorithm.advantages

    @property
    def on_policy(self) -> bool:
        """Each batch is used for one update only: pi_theta is pi_old whenever a gradient is taken."""
        return self.epochs * self.minibatches == 1

    def penalises_on_policy(self, placement: str) -> bool:
        """A regularizer in this place only ever sees pi_old: on-policy, or where a critic learns it from the token rewards, taken once."""
        return self.on_policy or (self.critic is not None and placement == "reward")
