"""Samples tokens from a transformers model: one prefill per prompt, all samples in parallel, finished rows dropped.

Shapes: P prompts, R = P * samples rows, N unfinished rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.engines import Drawing
from align.engines._rows import RowCache


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Sampled tokens, on the CPU. Rows are in prompt order; the samples of a prompt are adjacent."""

    tokens: Tensor
    """int32 [R, max_tokens], meaningless from `lengths` on."""
    logp: Tensor
    """float32 [R, max_tokens], nats, after temperature."""
    lengths: Tensor
    """int64 [R]."""
    finished: Tensor
    """bool [R]: the row ended with an end token."""


Allowed = Callable[[Tensor], Tensor]
"""Logits [N, V] to logits [N, V'] with V' <= V: those of the ids that may be drawn, -inf for others below V'."""


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    samples: int,
    drawing: Drawing,
    is_end: Tensor,
    uniforms: Tensor,
    allowed: Allowed = lambda logits: logits,
) -> Draws:
    """Samples up to `max_tokens` tokens for each row.

    Args: is_end: bool [V']; uniforms: float64 [max_tokens, R] in [0, 1), the only randomness: its row t draws token t.
    """
    max_tokens, device = len(uniforms), is_end.device
    ids, mask = left_padded(prompts, room=max_tokens)
    width, padded = ids.shape[1], not bool(mask.all())
    ids, mask, uniforms = ids.to(device), mask.to(device), uniforms.to(device)
    positions = (mask[:, :width].cumsum(1) - 1).clamp(min=0)
    cache = RowCache(model.config)

    logits = _last_logits(model, ids, mask[:, :width] if padded else None, positions, cache)
    cache.repeat(len(prompts), samples, device)
    logits, mask, position = (x.repeat_interleave(samples, 0) for x in (logits, mask, positions[:, -1]))
    rows = torch.arange(len(logits), device=device)
    tokens = torch.zeros(len(rows), max_tokens, dtype=torch.int32, device=device)
    logps = torch.zeros(len(rows), max_tokens, device=device)
    lengths = torch.full((len(rows),), max_tokens, device=device)
    finished = torch.zeros(len(rows), dtype=torch.bool, device=device)

    for t in range(max_tokens):
        logp = distribution(allowed(logits).float(), drawing)
        drawn = draw(logp, uniforms[t, rows])
        tokens[rows, t] = drawn.int()
        logps[rows, t] = logp.gather(1, drawn[:, None]).squeeze(1)
        ended = is_end[drawn]
        finished[rows] = ended
        live = (~ended).nonzero().squeeze(1)
        if len(live) < len(rows):
            lengths[rows[ended]] = t + 1
            order, holes = _closed_up(ended, live)
            rows, drawn, position, mask = rows[order], drawn[order], position[order], mask[order]
            cache.keep(order, holes)
        if len(rows) == 0 or t + 1 == max_tokens:
            break
        position = position + 1
        logits = _last_logits(model, drawn[:, None], mask[:, : width + t + 1] if padded else None, position[:, None], cache)
    return Draws(tokens=tokens.cpu(), logp=logps.cpu(), lengths=lengths.cpu(), finished=finished.cpu())


@torch.inference_mode()
def score(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    temperature: float,
    allowed: Allowed = lambda logits: logits,
) -> list[Tensor]:
    """log mu of given responses after temperature, float32 [n] each, in nats, from one forward pass."""
    rows = [torch.tensor([*p, *r]) for p, r in zip(prompts, responses, strict=True)]
    # Padded on the right, which causal attention never reads.
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    logp = torch.log_softmax(allowed(logits.flatten(0, 1)).unflatten(0, logits.shape[:2]).float() / temperature, -1)
    sampled = logp.gather(2, ids[:, 1:, None]).squeeze(2).cpu()
    return [sampled[i, len(p) - 1 : len(p) + len(r) - 1] for i, (p, r) in enumerate(zip(prompts, responses, strict=True))]


def distribution(logits: Tensor, drawing: Drawing) -> Tensor:
    """Log-probs, float32 [N, V], of the tokens as they are drawn from logits, float32 [N, V].

    With `top_p` below 1 a token is drawn if the more probable ones have less than `top_p` together: at least one is.
    """
    if drawing.temperature == 0:
        return torch.full_like(logits, -torch.inf).scatter(-1, logits.argmax(-1, keepdim=True), 0.0)
    logp = torch.log_softmax(logits / drawing.temperature, -1)
    if drawing.top_p == 1:
        return logp
    falling, order = logp.double().sort(dim=-1, descending=True, stable=True)
    before = falling.exp().cumsum(-1) - falling.exp()
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= drawing.top_p)
    return torch.log_softmax(logp.masked_fill(outside, -torch.inf), -1)


def left_padded(prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, Tensor]:
    """Token ids int64 [P, width] and the attention mask bool [P, width + room], true at the `room` new columns."""
    width = max(len(p) for p in prompts)
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    starts = torch.tensor([width - len(p) for p in prompts])
    return ids, torch.arange(width + room) >= starts[:, None]


def draw(logp: Tensor, uniform: Tensor) -> Tensor:
    """int64 [N]: the tokens drawn by inverting the cumulative distribution at each uniform number.

    It computes in float64: the error of a float32 sum over a large vocabulary exceeds the probability of rare tokens.
    """
    cumulative = logp.double().exp_().cumsum(-1)
    found = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    return found.clamp_(max=logp.shape[1] - 1).squeeze(1)


def _closed_up(ended: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """The order that moves the last live rows into the places of ended rows, and the places where it is not the identity."""
    order = torch.arange(len(live), device=live.device)
    holes = ended[: len(live)].nonzero().squeeze(1)
    order[holes] = live[live >= len(live)]
    return order, holes


def _last_logits(model: PreTrainedModel, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: RowCache) -> Tensor:
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1]
