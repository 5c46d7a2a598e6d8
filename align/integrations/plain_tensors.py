"""Checks tensors of another training loop, [B, T] with a mask or packed [T], and packs their unmasked entries."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from align.config.docstrings import format_part
from align.core.credit import Packing
from align.errors import UserError
from align.regularizers.composed import Composed
from align.weightings.uniform import Uniform

ROUNDING = 1e-3
"""A token's log-prob may be this much above 0, in nats."""


FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class PenaltyInputError(UserError, ValueError):
    """An invalid tensor argument of `penalty`. The message names the argument and the remedy."""


class Rows(NamedTuple):
    """The unmasked entries of the caller's tensors, and the answer index of each."""

    counts: Tensor
    """bool [B, T] or [T], true at unmasked entries."""
    answers: Tensor
    """int64 [t], answer index of each unmasked entry, from 0 without gaps."""

    def spread(self, x: Tensor) -> Tensor:
        """[t] -> the caller's shape, 0 at masked entries."""
        return torch.zeros(self.counts.shape, dtype=x.dtype, device=x.device).masked_scatter(self.counts, x)

    def packing(self) -> tuple[Packing, Tensor]:
        """Answer, and index in the answer, of each unmasked token; and the length of each answer."""
        lengths = torch.bincount(self.answers)
        order = torch.argsort(self.answers, stable=True)
        positions = torch.empty_like(order)
        positions[order] = torch.arange(len(order), device=order.device) - (lengths.cumsum(0) - lengths)[self.answers[order]]
        return Packing(self.answers, positions), lengths


def columns(
    form: Composed, logp: Tensor, ref_logp: Tensor, old_logp: Tensor | None, tokens: Tensor | None, weights: Tensor | None
) -> dict[str, Tensor]:
    """The given arguments in one floating type, detached except `logp`."""
    floats = {"logp": logp, "ref_logp": ref_logp, "old_logp": old_logp, "weights": weights}
    required = ("logp", "ref_logp")
    given = {name: dense(name, x) for name, x in (*floats.items(), ("tokens", tokens)) if x is not None or name in required}
    for name, x in given.items():
        if x.is_floating_point() != (name in floats):
            raise PenaltyInputError(f"{name} must be {'floating-point' if name in floats else 'integers'}, not {x.dtype}")
        if name in floats and x.dtype not in FLOATS:
            raise PenaltyInputError(f"{name} is {x.dtype}, which holds no log-probs: give float32, float64, bfloat16 or float16")
        if x.device != logp.device:
            raise PenaltyInputError(f"{name} is on {x.device} and logp on {logp.device}: move one of them")
    if ref_logp.shape != logp.shape:
        raise PenaltyInputError(f"logp {list(logp.shape)} and ref_logp {list(ref_logp.shape)} must be of one shape")
    summed = form.full_vocabulary and form.credit == "summed"
    if (tokens is not None) != summed:
        raise PenaltyInputError(
            f"{format_part(form.estimator)} with credit: {form.credit} "
            + ("needs the sampled tokens: give tokens=" if summed else "looks at no tokens: leave out tokens=")
        )
    if not isinstance(form.weighting, Uniform) and weights is None:
        raise PenaltyInputError(f"weighting {format_part(form.weighting)} reads a whole batch: compute its weights and give weights=")
    dtype = torch.float32
    for x in (x for name, x in given.items() if name in floats):
        dtype = torch.promote_types(dtype, x.dtype)
    return {
        name: x if name == "logp" else x.detach()
        for name, x in ((name, x.to(dtype) if name in floats else x.long()) for name, x in given.items())
    }


def dense(name: str, x: object) -> Tensor:
    """The argument. Raises PenaltyInputError if it is no tensor, or is sparse or nested."""
    if not isinstance(x, Tensor):
        raise PenaltyInputError(f"{name} must be a torch tensor, not {'None' if x is None else f'a {type(x).__name__}'}")
    if x.layout != torch.strided or x.is_nested:
        raise PenaltyInputError(f"{name} is {'nested' if x.is_nested else 'sparse'}: give a dense tensor, as `.to_dense()` makes one")
    return x


def rows_of(logp: Tensor, full_vocabulary: bool, mask: Tensor | None, seq_ids: Tensor | None, needs_answers: bool) -> Rows:
    """The unmasked entries. Raises PenaltyInputError if `logp` is not what the estimator reads, or `mask` or `seq_ids` do not fit."""
    for name, x in (("mask", mask), ("seq_ids", seq_ids)):
        if isinstance(x, Tensor):
            dense(name, x)
    shape = logp.shape[:-1] if full_vocabulary else logp.shape
    given = [x.shape for x in (mask, seq_ids) if isinstance(x, Tensor)]
    other = logp.shape if full_vocabulary else logp.shape[:-1]
    if len(shape) not in (1, 2) or (shape not in given and other in given):
        wanted, instead = (
            ("[B, T, V] or [T, V], over the vocabulary", 'the log-probs of the sampled tokens alone are for estimator="sampled"')
            if full_vocabulary
            else ("[B, T] or [T], of the sampled tokens", 'logits or log-probs of the whole vocabulary are for estimator="exact"')
        )
        raise PenaltyInputError(f"logp must be {wanted}, not {list(logp.shape)}: {instead}")
    counts = torch.ones(shape, dtype=torch.bool, device=logp.device) if mask is None else _mask(mask, shape, logp.device)
    if len(shape) == 2:
        if seq_ids is not None:
            raise PenaltyInputError("seq_ids belongs to packed tensors [T]: the rows of [B, T] are the answers")
        answers = counts.nonzero()[:, 0]
    elif seq_ids is None:
        if needs_answers:
            raise PenaltyInputError("packed tensors [T] need seq_ids, the answer of each token: this credit looks at whole answers")
        answers = torch.zeros_like(counts[counts], dtype=torch.int64)
    else:
        if not isinstance(seq_ids, Tensor) or seq_ids.shape != shape or seq_ids.is_floating_point() or seq_ids.dtype == torch.bool:
            raise PenaltyInputError(f"seq_ids must be an integer tensor {list(shape)}, the answer of each token")
        answers = seq_ids.to(logp.device)[counts]
    return Rows(counts, torch.unique(answers, return_inverse=True)[1])


def _mask(mask: Tensor, shape: torch.Size, device: torch.device) -> Tensor:
    if not isinstance(mask, Tensor) or mask.shape != shape:
        raise PenaltyInputError(
            f"mask must be a tensor {list(shape)}, as the tokens are" + (f", not {list(mask.shape)}" if isinstance(mask, Tensor) else "")
        )
    mask = mask.to(device)
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise PenaltyInputError("mask must hold 0 and 1 alone: how much a token counts is weights=")
    return mask.bool()


def kept(name: str, x: Tensor, rows: Rows) -> Tensor:
    """The unmasked entries, [t] or [t, V]. Raises PenaltyInputError if the shape is not that of the tokens."""
    if x.shape[: rows.counts.dim()] != rows.counts.shape or (name not in ("logp", "ref_logp") and x.shape != rows.counts.shape):
        raise PenaltyInputError(f"{name} must be {list(rows.counts.shape)}, one for each token, not {list(x.shape)}")
    return x[rows.counts]


def check_numbers(packed: dict[str, Tensor], full_vocabulary: bool) -> None:
    """Raises PenaltyInputError for an invalid number at an unmasked token."""
    for name, x in ((name, x.detach()) for name, x in packed.items() if name != "tokens"):
        over_vocabulary = full_vocabulary and name in ("logp", "ref_logp")
        # A logit of -inf is valid: that token is never sampled. The log-prob of a sampled token must be finite.
        wrong = ~(x < torch.inf) if over_vocabulary else ~x.isfinite()
        if wrong.any():
            raise PenaltyInputError(
                f"{name} is {x[wrong][0].item()} at {int(wrong.sum())} of the numbers that count: mask those tokens "
                "out, or look at what computed them"
            )
        if over_vocabulary and (nowhere := (x == -torch.inf).all(-1)).any():
            raise PenaltyInputError(
                f"{name} is -inf at the whole vocabulary of {int(nowhere.sum())} tokens that count, and then no token is possible there: "
                "mask them out, or look at what computed them"
            )
        if name == "weights" and (x < 0).any():
            raise PenaltyInputError(f"weights must be >= 0, and one is {x.min().item():.3g}: it would drive the policy away")
        if name != "weights" and not over_vocabulary and (x > ROUNDING).any():
            raise PenaltyInputError(
                f"{name} holds log-probs, which are at most 0, and one is {x.max().item():.3g}: give "
                "log_softmax(logits) of the sampled tokens"
            )
    if full_vocabulary and "tokens" in packed and len(packed["tokens"]):
        tokens, size = packed["tokens"], packed["logp"].shape[-1]
        if tokens.min() < 0 or tokens.max() >= size:
            raise PenaltyInputError(f"tokens must be from 0 to {size - 1}, the vocabulary of logp, where the mask counts them")
