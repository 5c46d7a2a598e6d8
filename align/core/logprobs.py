"""From hidden states to log-prob, entropy and exact divergence of each token, without the [T, V] matrix.

Tokens go through the language-model head in chunks; a chunk's logits are dropped after the forward pass and computed again
in the backward pass. `token_stats` is the one door to the head: another backend stands behind the same function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from align.divergences import Divergence


class Head(NamedTuple):
    """The last layer of a causal language model."""

    weight: Tensor
    """[V, H]."""
    bias: Tensor | None = None
    """[V]."""
    scale: float = 1.0
    """Multiplies the logits (Cohere, Granite)."""
    softcap: float | None = None
    """`cap * tanh(logits / cap)` (Gemma)."""

    def logits(self, hidden: Tensor, temperature: float) -> Tensor:
        """[T, H] -> float32 (or wider) [T, V], after scale, soft cap and temperature."""
        z = torch.nn.functional.linear(hidden, self.weight, self.bias)
        z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
        z = z if self.scale == 1.0 else z * self.scale
        z = z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)
        return z if temperature == 1.0 else z / temperature


def every_token(logp: Tensor, ref_logp: Tensor) -> tuple[Tensor, Tensor]:
    """The outcomes of the full vocabulary: [T, V] as they are."""
    return logp, ref_logp


class Compared(NamedTuple):
    """The reference's side of one exact divergence."""

    divergence: Divergence
    hidden: Tensor
    """[T, H], detached."""
    head: Head
    outcomes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = every_token
    """What the divergence is taken over: (log pi, log ref) [T, V] -> [T, K]."""


class TokenStats(NamedTuple):
    logp: Tensor
    """[T], log pi of the labels, nats, differentiable."""
    entropy: Tensor
    """[T], nats, detached."""
    exact: dict[str, Tensor]
    """[T] by name: D_f(pi||ref) at each state, nats, differentiable in the policy."""


def token_stats(
    hidden: Tensor, head: Head, labels: Tensor, *, temperature: float = 1.0, compared: Mapping[str, Compared] | None = None,
    elements: int = 1 << 24,
) -> TokenStats:
    """Statistics of each token under `softmax(head(hidden)/temperature)`.

    Args: hidden [T, H]; labels int64 [T]; `compared`: the exact divergences wanted, by name; `elements`: logits that may exist at once.
    """
    compared = compared or {}
    rows = max(1, elements // (head.weight.shape[0] * (1 + len(compared))))
    if len(labels) <= rows:
        parts = [_chunk(hidden, head, labels, temperature, compared)]
    else:
        parts = [
            checkpoint(_chunk, hidden[i : i + rows], head, labels[i : i + rows], temperature,
                       {k: c._replace(hidden=c.hidden[i : i + rows]) for k, c in compared.items()}, use_reentrant=False)
            for i in range(0, len(labels), rows)
        ]
    return TokenStats(
        logp=torch.cat([p.logp for p in parts]),
        entropy=torch.cat([p.entropy for p in parts]),
        exact={k: torch.cat([p.exact[k] for p in parts]) for k in compared},
    )


def _chunk(hidden: Tensor, head: Head, labels: Tensor, temperature: float, compared: Mapping[str, Compared]) -> TokenStats:
    logp = torch.log_softmax(head.logits(hidden, temperature), dim=-1)
    with torch.no_grad():
        # p log p is 0 where a logit is -inf, but 0 * -inf is not.
        entropy = -(logp.exp() * logp.clamp_min(torch.finfo(logp.dtype).min)).sum(-1)
        references = {k: torch.log_softmax(c.head.logits(c.hidden, temperature), dim=-1) for k, c in compared.items()}
    return TokenStats(
        logp=logp.gather(-1, labels[:, None]).squeeze(-1),
        entropy=entropy,
        exact={k: exact_divergence(c.divergence, *c.outcomes(logp, references[k])) for k, c in compared.items()},
    )


def exact_divergence(divergence: Divergence, logp: Tensor, ref_logp: Tensor) -> Tensor:
    """D_f(pi||ref) over the last axis: [..., V] log-probs in nats -> [...].

    Value `sum_v ref_v k_f(u_v)`, taken as `pi_v khat(u_v)` where u > 1 so that neither side overflows. Gradient
    `sum_v pi_v c_v grad log pi_v`, so f itself is never differentiated (methods: `grad D_f = E_pi[f'(u) grad log pi]`);
    where u < 1, `pi_v c_v` is taken as `ref_v u_v c_v`: forward KL pulls up by ref_v an outcome whose pi_v underflows. Both go
    through the divergence's `transform`. An outcome that one side alone allows counts with the limit of f, or about a quarter of the
    type's largest number where f has none.
    """
    with torch.no_grad():
        # Outcomes impossible under both contribute nothing: -inf - -inf would be NaN, and so would 0 * -inf inside f.
        finfo = torch.finfo(logp.dtype)
        log_u = torch.where(torch.isneginf(logp) & torch.isneginf(ref_logp), 0.0, logp - ref_logp).clamp(finfo.min, finfo.max)
        below = log_u < 0
        low, high = torch.where(below, log_u, 0.0), torch.where(below, 0.0, log_u)
        pi, ref = logp.exp(), ref_logp.exp()
        # A heavy tail overflows on outcomes whose own probability underflows: inf * 0.
        most = finfo.max / 4
        below_mean, above_mean = divergence.generator(low).clamp(-most, most), divergence.value(high).clamp(-most, most)
        value, slope = divergence.transform(torch.where(below, ref * below_mean, pi * above_mean).sum(-1))
        # u c nears its limit at u = 0 long before u underflows and c overflows.
        low = low.clamp_min(-0.9 * math.log(finfo.max))
        below_pull, above_pull = (divergence.coefficient(x).clamp(-most, most) for x in (low, high))
        weight = torch.where(below, ref * low.exp() * below_pull, pi * above_pull)
    score = torch.where(torch.isneginf(logp), 0.0, logp)
    return value + slope * (weight * (score - score.detach())).sum(-1)
