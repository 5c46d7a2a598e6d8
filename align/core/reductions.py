"""Reductions: one weight a token, fixed on the whole batch, so the loss is a plain weighted sum however the batch is split.

The same weights serve the policy term and every regularizer; beta would change its meaning otherwise.
"""

from __future__ import annotations

from torch import Tensor


def token(lengths: Tensor, max_tokens: int) -> Tensor:
    """Mean over all response tokens of the batch (DAPO 2503.14476). lengths int64 [S] -> weight of a token, by sequence [S]."""
    return (1.0 / lengths.sum()).expand(len(lengths)).float()


def sequence(lengths: Tensor, max_tokens: int) -> Tensor:
    """Mean over sequences of each one's token mean (GRPO 2402.03300): tokens of short answers weigh more."""
    return 1.0 / (len(lengths) * lengths.float())


def constant(lengths: Tensor, max_tokens: int) -> Tensor:
    """Sum over tokens divided by S * max_tokens (DrGRPO 2503.20783): no length enters."""
    return (lengths * 0 + 1).float() / (len(lengths) * max_tokens)


def answer(lengths: Tensor, max_tokens: int) -> Tensor:
    """Sum over the tokens of each answer, mean over answers (verl's seq-mean-token-sum): also for what stands at the first token alone."""
    return (lengths * 0 + 1).float() / len(lengths)
