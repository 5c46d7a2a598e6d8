"""A regularizer in somebody else's training loop: composed in Python, and applied to plain tensors.

`penalty` packs the tokens that count to [T], as the learner does, calls the regularizer's own `penalty`, and gives the result back in
the shape it got. Tokens that do not count never enter a computation, so whatever stands there reaches neither value nor gradient.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from align.config import absolute_files, build_part
from align.core.credit import Packing
from align.core.logprobs import logits_stats
from align.describe import written
from align.errors import RecipeError, UserError
from align.regularizers import Penalty
from align.regularizers.composed import Composed
from align.tryout import try_divergence
from align.types import TokenBatch, TokenContext
from align.weightings.uniform import Uniform

NAME = "penalty"
"""The regularizer's entries in the batch."""
AXES = {"divergence": "reverse_kl", "estimator": "sampled", "credit": "local"}
"""The axes that `penalty` takes by itself, with their defaults."""
ROUNDING = 1e-3
"""Nats: the log-prob of a token may be this much above 0."""


class PenaltyInputError(UserError, ValueError):
    """A tensor that `penalty` cannot work on. The message names the argument and the remedy."""


def regularizer(divergence: Any = "reverse_kl", *, coefficient: Any, estimator: Any = "sampled", placement: str = "loss",
                credit: str = "local", weighting: Any = "uniform", reference: Any = "frozen", ratio_to: str = "old",
                ratio_cap: float | None = None, beyond_cap: str = "truncate", clamp: float | None = None,
                allow_biased: bool = False) -> Composed:
    """Compose a regularizer, `coefficient * weighting * D_f(pi||ref)`, with the keys and the defaults that a recipe has.

    Args:
        divergence: A word (`"tsallis"`), a mapping (`{"name": "tsallis", "q": 0.5}`), a part (`Tsallis(q=0.5)`), or a class of your own
            with `f(self, log_u)`; so are `estimator`, `coefficient`, `weighting` and `reference`.
        coefficient: beta, a number or a rule; per nat of the divergence.
        estimator: How it is measured: `sampled` and `exact` have its own gradient.
        placement: `loss`, `reward`, or the `link` of a preference loss.
        credit: Which tokens answer for it: `local`, `summed` or `sequence` (`align/core/credit.py`).
        weighting: Which tokens feel it.
        reference: Whom the policy is held to, where `align.train` holds the models.
        ratio_to: Whom samples are weighed against: `old` or `sampler`.
        ratio_cap: Largest importance weight, above 1.
        beyond_cap: `truncate` or `mask`.
        clamp: Nats: the largest |log pi/ref| that counts.
        allow_biased: Let a published form run whose gradient is not that of the divergence it claims.

    Returns:
        A frozen `Composed`. It goes into a recipe (`dataclasses.replace(recipe, regularizers={"kl": ...})`), `align.audit` and
        `align.penalty`.

    Raises:
        RecipeError: At the key at fault, as a recipe would; also for an f that is not convex.

    The keys are those of `align list regularizer`; docs/regularizers.md has every part and its source.

    Example:
        >>> import align
        >>> held = align.regularizer({"name": "tsallis", "q": 0.5}, coefficient=0.1, credit="summed")
        >>> held.divergence, held.estimator, held.coefficient
        (Tsallis(q=0.5), Sampled(), Constant(value=0.1))
    """
    node = {"divergence": divergence, "estimator": estimator, "placement": placement, "credit": credit, "coefficient": coefficient,
            "weighting": weighting, "reference": reference, "ratio_to": ratio_to, "ratio_cap": ratio_cap, "beyond_cap": beyond_cap,
            "clamp": clamp, "allow_biased": allow_biased}
    built = build_part("regularizer", absolute_files(node, Path.cwd()), "regularizer")
    try_divergence(built.divergence, "regularizer.divergence")
    return built


def penalty(logp: Tensor, ref_logp: Tensor, mask: Tensor | None = None, *, divergence: Any = "reverse_kl", estimator: Any = "sampled",
            credit: str = "local", old_logp: Tensor | None = None, seq_ids: Tensor | None = None, tokens: Tensor | None = None,
            weights: Tensor | None = None, regularizer: Composed | None = None) -> Penalty:
    """The penalty of each token, before the coefficient and before any mean: add `beta * (penalty.loss * w).sum()` to your loss.

    Its gradient is that of the composed regularizer and its value an estimate of the divergence; neither is an accident of the other.
    It is computed by what `align.train` computes it by, in float32 or, where an argument is float64, in float64.

    Args:
        logp: [B, T] or [T], log pi of the sampled tokens, nats; gradients flow through it. With `estimator: exact` or `top_k` the logits
            or log-probs of the whole vocabulary, [B, T, V] or [T, V].
        ref_logp: The same of the reference; detached.
        mask: bool or 0/1, [B, T] or [T]: the tokens that count. Padding, prompts and tool outputs do not.
        divergence, estimator, credit: As in `align.regularizer`.
        old_logp: [B, T] or [T], log-prob under the policy that drew the tokens: needed where a batch serves several updates. None: the
            tokens are the policy's own.
        seq_ids: int [T], the answer of each token, where `logp` is packed; needed by the credits `summed` and `sequence`. The tokens of
            an answer stand in their order.
        tokens: int [B, T] or [T], the sampled tokens: needed by an estimator over the vocabulary with `credit: summed`.
        weights: float [B, T] or [T], >= 0, detached: how much each token feels it.
        regularizer: Of `align.regularizer`, in place of divergence, estimator and credit. Its coefficient is not applied, and its
            reference is whoever computed `ref_logp`; a weighting that reads a batch is given as `weights`.

    Returns:
        A `Penalty` of tensors [B, T] or [T], 0 where the mask is: `loss`, differentiable (with `placement: reward` instead `reward`,
        detached, to be subtracted from each token's advantage, beta-fold); `value`, detached, nats: its sum over an answer estimates the
        divergence of that answer; `shares["clamped"]`, bool, where a log-ratio was beyond the clamp.

    Raises:
        PenaltyInputError: A ValueError, for shapes, types and devices that do not fit and for numbers that are not finite where the mask
            counts them.
        RecipeError: For a form that a recipe would refuse, such as `k3` in the loss: `align.regularizer(..., allow_biased=True)` runs it.

    The identity `grad D_f = E_pi[f'(u) grad log pi]` is that of Go et al. 2302.08215; of KL(pi||ref) `sampled` is k3 with the
    importance ratio (DeepSeek-V3.2). The credits: `align/core/credit.py`.

    Example:
        >>> import align, torch
        >>> logp = torch.tensor([[-1.0, -2.0, 0.0]], requires_grad=True)
        >>> ref_logp = torch.tensor([[-1.5, -1.0, 0.0]])
        >>> p = align.penalty(logp, ref_logp, mask=torch.tensor([[1, 1, 0]]))
        >>> p.loss.sum().backward()
        >>> logp.grad  # log pi/ref: the gradient of KL(pi||ref) at each sampled token
        tensor([[ 0.5000, -1.0000,  0.0000]])
        >>> p.value  # k3, whose mean is the KL
        tensor([[0.1065, 0.7183, 0.0000]])
    """
    form = _form(regularizer, {"divergence": divergence, "estimator": estimator, "credit": credit})
    if reason := form.refusal(on_policy=old_logp is None, samples=True):
        raise RecipeError("penalty", reason)
    if form.placement == "link":
        raise RecipeError("penalty", "placement: link is inside a preference loss: use placement: loss or reward")
    columns = _columns(form, logp, ref_logp, old_logp, tokens, weights)
    rows = _rows(columns["logp"], form.full_vocabulary, mask, seq_ids, needs_answers=form.credit != "local")
    packed = {name: _kept(name, x, rows) for name, x in columns.items()}
    _check_numbers(packed, form.full_vocabulary)
    if not rows.counts.any():
        none = rows.spread(packed["logp"].flatten())
        return Penalty(value=none.detach(), **{form.placement: none if form.placement == "loss" else none.detach()})
    found = form.penalty(_context(form, packed, rows), NAME)
    given = {key: rows.spread(x) for key in ("loss", "reward") if (x := getattr(found, key)) is not None}
    return Penalty(value=rows.spread(found.value), shares={key: rows.spread(x) for key, x in found.shares.items()}, **given)


class _Rows(NamedTuple):
    """Which entries of the caller's tensors count, and the answer of each of those."""

    counts: Tensor
    """bool [B, T] or [T]."""
    answers: Tensor
    """int64 [t], of those that count, from 0 without a gap."""

    def spread(self, x: Tensor) -> Tensor:
        """[t] -> the caller's shape, 0 where nothing counts."""
        return torch.zeros(self.counts.shape, dtype=x.dtype, device=x.device).masked_scatter(self.counts, x)

    def packing(self) -> tuple[Packing, Tensor]:
        """Answer and index in it of each token that counts, and the length of each answer."""
        lengths = torch.bincount(self.answers)
        order = torch.argsort(self.answers, stable=True)
        positions = torch.empty_like(order)
        positions[order] = torch.arange(len(order), device=order.device) - (lengths.cumsum(0) - lengths)[self.answers[order]]
        return Packing(self.answers, positions), lengths


def _form(given: Composed | None, axes: dict[str, Any]) -> Composed:
    if given is None:
        words = all(isinstance(value, str) and ":" not in value for value in axes.values())
        return _of_words(**axes) if words else regularizer(coefficient=1.0, **axes)
    if not isinstance(given, Composed):
        raise RecipeError("regularizer", f"{type(given).__name__} is none that align.regularizer composed: call its own `penalty`")
    if said := [key for key, value in axes.items() if value != AXES[key]]:
        raise RecipeError(said[0], f"changes nothing beside regularizer=, which has a {said[0]}: give it to align.regularizer")
    return given


@lru_cache
def _of_words(divergence: str, estimator: str, credit: str) -> Composed:
    """Building one takes far longer than applying it."""
    return regularizer(divergence, coefficient=1.0, estimator=estimator, credit=credit)


def _columns(form: Composed, logp: Tensor, ref_logp: Tensor, old_logp: Tensor | None, tokens: Tensor | None,
             weights: Tensor | None) -> dict[str, Tensor]:
    """Those that were given, in one floating type, all but `logp` detached."""
    floats = {"logp": logp, "ref_logp": ref_logp, "old_logp": old_logp, "weights": weights}
    given = {name: x for name, x in (*floats.items(), ("tokens", tokens)) if x is not None}
    for name, x in given.items():
        if not isinstance(x, Tensor):
            raise PenaltyInputError(f"{name} must be a torch tensor, not a {type(x).__name__}")
        if x.is_floating_point() != (name in floats):
            raise PenaltyInputError(f"{name} must be {'floating-point' if name in floats else 'integers'}, not {x.dtype}")
        if x.device != logp.device:
            raise PenaltyInputError(f"{name} is on {x.device} and logp on {logp.device}: move one of them")
    if ref_logp.shape != logp.shape:
        raise PenaltyInputError(f"logp {list(logp.shape)} and ref_logp {list(ref_logp.shape)} must be of one shape")
    summed = form.full_vocabulary and form.credit == "summed"
    if (tokens is not None) != summed:
        raise PenaltyInputError(f"{written(form.estimator)} with credit: {form.credit} "
                                + ("needs the sampled tokens: give tokens=" if summed else "looks at no tokens: leave out tokens="))
    if not isinstance(form.weighting, Uniform) and weights is None:
        raise PenaltyInputError(f"weighting {written(form.weighting)} reads a whole batch: compute its weights and give weights=")
    dtype = torch.float32
    for x in (x for name, x in given.items() if name in floats):
        dtype = torch.promote_types(dtype, x.dtype)
    return {name: x if name == "logp" else x.detach() for name, x in (
        (name, x.to(dtype) if name in floats else x.long()) for name, x in given.items())}


def _rows(logp: Tensor, full_vocabulary: bool, mask: Tensor | None, seq_ids: Tensor | None, needs_answers: bool) -> _Rows:
    shape = logp.shape[:-1] if full_vocabulary else logp.shape
    if len(shape) not in (1, 2):
        wanted = "[B, T, V] or [T, V], over the vocabulary" if full_vocabulary else "[B, T] or [T], of the sampled tokens"
        raise PenaltyInputError(f"logp must be {wanted}, not {list(logp.shape)}")
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
    return _Rows(counts, torch.unique(answers, return_inverse=True)[1])


def _mask(mask: Tensor, shape: torch.Size, device: torch.device) -> Tensor:
    if not isinstance(mask, Tensor) or mask.shape != shape:
        raise PenaltyInputError(f"mask must be a tensor {list(shape)}, as the tokens are"
                                + (f", not {list(mask.shape)}" if isinstance(mask, Tensor) else ""))
    mask = mask.to(device)
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise PenaltyInputError("mask must hold 0 and 1 alone: how much a token counts is weights=")
    return mask.bool()


def _kept(name: str, x: Tensor, rows: _Rows) -> Tensor:
    if x.shape[:rows.counts.dim()] != rows.counts.shape or (name not in ("logp", "ref_logp") and x.shape != rows.counts.shape):
        raise PenaltyInputError(f"{name} must be {list(rows.counts.shape)}, one for each token, not {list(x.shape)}")
    return x[rows.counts]


def _check_numbers(packed: dict[str, Tensor], full_vocabulary: bool) -> None:
    """Raises where a token that counts has no number."""
    for name, x in ((name, x.detach()) for name, x in packed.items() if name != "tokens"):
        over_vocabulary = full_vocabulary and name in ("logp", "ref_logp")
        # A token that is never sampled has -inf among the logits; a token that was sampled has a probability.
        wrong = ~(x < torch.inf) if over_vocabulary else ~x.isfinite()
        if wrong.any():
            raise PenaltyInputError(f"{name} is {x[wrong][0].item()} at {int(wrong.sum())} of the numbers that count: mask those tokens "
                                    "out, or look at what computed them")
        if name == "weights" and (x < 0).any():
            raise PenaltyInputError(f"weights must be >= 0, and one is {x.min().item():.3g}: it would drive the policy away")
        if name != "weights" and not over_vocabulary and (x > ROUNDING).any():
            raise PenaltyInputError(f"{name} holds log-probs, which are at most 0, and one is {x.max().item():.3g}: give "
                                    "log_softmax(logits) of the sampled tokens")
    if full_vocabulary and "tokens" in packed and len(packed["tokens"]):
        tokens, size = packed["tokens"], packed["logp"].shape[-1]
        if tokens.min() < 0 or tokens.max() >= size:
            raise PenaltyInputError(f"tokens must be from 0 to {size - 1}, the vocabulary of logp, where the mask counts them")


def _context(form: Composed, packed: dict[str, Tensor], rows: _Rows) -> TokenContext:
    """What the learner hands to a regularizer, of these tokens."""
    at, lengths = rows.packing()
    logp, exact = packed["logp"], {}
    if form.full_vocabulary:
        # Without them the log-probs of the sampled tokens are not looked at.
        sampled = packed.get("tokens", torch.zeros_like(at.seq_ids))
        stats = logits_stats(logp, sampled, packed["ref_logp"], form.divergence, outcomes=form.outcomes if form.merges else None)
        logp, exact = stats.logp, {NAME: stats.div}
    old, none = packed.get("old_logp"), torch.zeros_like(lengths)
    batch = TokenBatch(
        input_ids=none[:, None], prompt_lengths=none, lengths=lengths, seq_ids=at.seq_ids, positions=at.positions,
        group_ids=torch.arange(len(lengths), device=lengths.device), old_logp=old,
        sampler_logp=logp.detach() if old is None else old, ref_logp={} if exact else {NAME: packed["ref_logp"]},
        penalty_weights={NAME: packed.get("weights", torch.ones_like(logp.detach()))})
    return TokenContext(batch=batch, logp=logp, entropy=torch.zeros_like(logp.detach()), exact=exact)
