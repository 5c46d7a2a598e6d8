"""Surrogates: losses whose gradient is a policy gradient. Per token, [T] -> [T], to be minimised.

All have one signature, so that another is one more function here:

    surrogate(log_rho, advantages, at, clip_low, clip_high) -> (loss, cut)

Args: log_rho [T] = log pi/pi_old, nats, differentiable; advantages [T], detached; `at`: where each token sits; the bounds of the ratio,
1 - clip_low and 1 + clip_high; after them the numbers of `OWN`, each with a default. Returns the loss and where a bound cut the gradient
or held the weight back (bool [T]).
"""

from __future__ import annotations

import torch
from torch import Tensor

from align.core.credit import Packing, sequence_log_ratio

UNBOUNDED = frozenset({"reinforce", "sapo"})
"""The surrogates that read neither clip."""
OWN = {"dual_clip": ("ceiling",), "sapo": ("temperature", "temperature_negative")}
"""The numbers that a surrogate alone reads: keys of who names it."""


def clipped(log_rho: Tensor, advantages: Tensor, at: Packing, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A) (PPO 1707.06347, equation 7; two bounds: DAPO 2503.14476)."""
    rho = log_rho.exp()
    plain = rho * advantages
    bounded = rho.clamp(1 - clip_low, 1 + clip_high) * advantages
    return -torch.minimum(plain, bounded), (bounded < plain).detach()


def reinforce(log_rho: Tensor, advantages: Tensor, at: Packing, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """-rho A, no bound: REINFORCE, off-policy weighed by the ratio of the token (RLOO on-policy, 2402.14740)."""
    return -log_rho.exp() * advantages, torch.zeros_like(log_rho, dtype=torch.bool)


def dual_clip(
    log_rho: Tensor, advantages: Tensor, at: Packing, clip_low: float, clip_high: float, ceiling: float = 3.0,
) -> tuple[Tensor, Tensor]:
    """`clipped`, and at most -ceiling A where A < 0 (1912.09729; verl's c = 3).

    The same function as INTELLECT-2's two-sided clip (2505.07291; TRL's `delta`), which caps the unclipped rho. `ceiling` > 1 + clip_high.
    """
    loss, cut = clipped(log_rho, advantages, at, clip_low, clip_high)
    most = torch.where(advantages < 0, -ceiling * advantages, torch.inf)
    return torch.minimum(loss, most), cut | (most < loss).detach()


def cispo(log_rho: Tensor, advantages: Tensor, at: Packing, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """-sg(clip(rho, 1 - low, 1 + high)) A log pi (MiniMax-M1 2506.13585): every token keeps a gradient.

    The paper bounds from above only, which is clip_low = 1; TRL's `epsilon_high` is the bound itself, 1 + clip_high. The value is
    -w A of the clipped weight w, without the log pi, so that it compares with the other surrogates; the gradient is the paper's.
    """
    rho = log_rho.detach().exp()
    weight = torch.clamp(rho, 1 - clip_low, 1 + clip_high)
    return -weight * advantages * (1 + log_rho - log_rho.detach()), weight != rho


def sapo(
    log_rho: Tensor, advantages: Tensor, at: Packing, clip_low: float, clip_high: float,
    temperature: float = 1.0, temperature_negative: float = 1.05,
) -> tuple[Tensor, Tensor]:
    """-A sigmoid(tau (rho - 1)) 4/tau, tau by the sign of A (SAPO 2511.20347): a soft bound, slope 1 at rho = 1. The clips are not read."""
    tau = torch.full_like(log_rho, temperature).where(advantages > 0, temperature_negative)
    loss = -torch.sigmoid(tau * (log_rho.exp() - 1)) * (4 / tau) * advantages
    return loss, torch.zeros_like(log_rho, dtype=torch.bool)


def sequence_clipped(log_rho: Tensor, advantages: Tensor, at: Packing, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """`clipped` on s = exp(mean of log rho over the answer) (GSPO 2507.18071; bounds 3e-4 and 4e-4).

    GSPO-token, with an advantage for each token: the value is that of s, the gradient of a token its own share of it.
    """
    length = sequence_log_ratio(torch.ones_like(log_rho), at)
    mean = sequence_log_ratio(log_rho.detach(), at) / length
    return clipped(mean + (log_rho - log_rho.detach()), advantages, at, clip_low, clip_high)


def answer_clipped(log_rho: Tensor, advantages: Tensor, at: Packing, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """`clipped` on the ratio of the whole answer, pi(y)/pi_old(y) = exp(sum of log rho): RLOO off-policy, as TRL has it.

    The gradient is that of ratio * sum_t A_t log pi_t, the value stands at the first token alone: made for the `answer` reduction.
    """
    ratio = sequence_log_ratio(log_rho.detach(), at)
    loss, cut = clipped(ratio + (log_rho - log_rho.detach()), advantages, at, clip_low, clip_high)
    return loss - torch.where(at.positions == 0, 0.0, loss.detach()), cut
