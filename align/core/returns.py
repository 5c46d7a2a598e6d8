"""Returns: what a critic is fitted to, and the advantages it gives. Everything is detached; T tokens are packed by sequence."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from align.core.segments import padded, segment_sum


@torch.no_grad()
def paid(rewards: Float[Tensor, "S"], step_rewards: Float[Tensor, "T"] | None, seq_ids: Int64[Tensor, "T"]) -> Float[Tensor, "T"]:
    """The reward of each token: what its step is paid, and at each last token what is left of the answer's reward.

    Args: rewards of whole answers; step_rewards: the part of them that is paid before the end, or None.
    """
    last = torch.ones_like(seq_ids, dtype=torch.bool)
    last[:-1] = seq_ids[1:] != seq_ids[:-1]
    if step_rewards is None:
        return torch.where(last, rewards[seq_ids], 0.0)
    left = rewards - segment_sum(step_rewards, seq_ids, len(rewards))
    return step_rewards + torch.where(last, left[seq_ids], 0.0)


@torch.no_grad()
def gae(
    rewards: Float[Tensor, "T"],
    values: Float[Tensor, "T"],
    seq_ids: Int64[Tensor, "T"],
    positions: Int64[Tensor, "T"],
    gamma: float,
    lam: float,
) -> tuple[Float[Tensor, "T"], Float[Tensor, "T"]]:
    """Generalised advantage estimation (1506.02438): (advantages, returns = advantages + values).

    A_t = delta_t + gamma lam A_{t+1} with delta_t = r_t + gamma V_{t+1} - V_t. Nothing follows the last token, V = 0 there: also where
    the answer was cut at the length limit.

    Args: rewards of each token; values: V of the state before each token.
    """
    reward, value = padded(rewards, seq_ids, positions), padded(values, seq_ids, positions)
    delta = reward + gamma * torch.nn.functional.pad(value[:, 1:], (0, 1)) - value
    advantages = torch.zeros_like(delta)
    following = torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        following = delta[:, t] + gamma * lam * following
        advantages[:, t] = following
    packed = advantages[seq_ids, positions]
    return packed, packed + values


@torch.no_grad()
def whiten(x: Float[Tensor, "T"], keep: Bool[Tensor, "T"] | None = None, shift_mean: bool = True) -> Float[Tensor, "T"]:
    """(x - mean)/sqrt(variance + 1e-8) of x, the variance unbiased, as in PPO's advantages; `shift_mean=False` puts the mean back.

    `keep` chooses the tokens that mean and variance are taken of; all are transformed. A single token, or all equal, get 0.
    """
    chosen = x if keep is None else x[keep]
    # In float64 the mean of equal float32 values is that value: what is centred with it is then exactly 0.
    mean = chosen.double().mean().to(x.dtype)
    variance = (chosen - mean).square().sum() / max(len(chosen) - 1, 1)
    whitened = (x - mean) * torch.rsqrt(variance + 1e-8)
    return whitened if shift_mean else whitened + mean
