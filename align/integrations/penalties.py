"""Regularizers in other training loops than align's: composed in Python, and applied to plain tensors.

`penalty` packs the unmasked tokens to [T], as the learner does, calls the regularizer's own `penalty`, and returns the result in the
caller's shape. Masked tokens enter no computation, so their numbers affect neither value nor gradient.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.audit.default_recipe import default_recipe
from align.config.nodes import build_part
from align.config.paths import absolute_files
from align.config.refusals import regularizer_refusal
from align.contexts import TokenContext
from align.core.logprobs import logits_stats
from align.errors import RecipeError
from align.integrations.plain_tensors import Rows, check_numbers, columns, kept, rows_of
from align.oracle.divergence_check import try_divergence
from align.regularizers import Penalty
from align.regularizers.composed import Composed
from align.types import TokenBatch

NAME = "penalty"
"""The regularizer's name in the batch."""
AXES = {"divergence": "reverse_kl", "estimator": "sampled", "credit": "local"}
"""The axes that `penalty` takes by itself, with their defaults."""


def regularizer(
    divergence: Any = "reverse_kl",
    *,
    coefficient: Any,
    estimator: Any = "sampled",
    placement: str = "loss",
    credit: str = "local",
    weighting: Any = "uniform",
    reference: Any = "frozen",
    ratio_to: str = "old",
    ratio_cap: float | None = None,
    beyond_cap: str = "truncate",
    clamp: float | None = None,
    allow_biased: bool = False,
) -> Composed:
    """Compose a regularizer, `coefficient * weighting * D_f(pi||ref)`, with the keys and the defaults that a recipe has.

    Args:
        divergence: A word (`"tsallis"`), a mapping (`{"name": "tsallis", "q": 0.5}`), a part (`Tsallis(q=0.5)`), or a class of your own
            with `f(self, log_u)`; so are `estimator`, `coefficient`, `weighting` and `reference`.
        coefficient: beta, a number or a rule; per nat of the divergence.
        estimator: How the divergence is estimated: `sampled` and `exact` have the divergence's own gradient.
        placement: `loss`, `reward`, or the `link` of a preference loss.
        credit: Which tokens get the gradient of a state's divergence: `local`, `summed` or `sequence` (`align/core/credit.py`).
        weighting: Its weight on each token.
        reference: The model that the policy is compared with, under `align.train`; `align.penalty` takes its log-probs.
        ratio_to: The denominator of the importance ratio: the `old` log-probs, or the `sampler`'s.
        ratio_cap: Largest importance weight, above 1.
        beyond_cap: `truncate` or `mask`.
        clamp: Largest |log pi/ref|, in nats; larger ones are clamped.
        allow_biased: Allow a published form whose gradient is not the gradient of its divergence.

    Returns:
        A frozen `Composed`. It goes into a recipe (`dataclasses.replace(recipe, regularizers={"kl": ...})`), `align.audit` and
        `align.penalty`.

    Raises:
        RecipeError: Names the wrong key, as for a recipe; also for an f that is not convex.

    The keys are those of `align list regularizer`; docs/regularizers.md has every part and its source.

    Example:
        >>> import align
        >>> held = align.regularizer({"name": "tsallis", "q": 0.5}, coefficient=0.1, credit="summed")
        >>> held.divergence, held.estimator, held.coefficient
        (Tsallis(q=0.5), Sampled(), Constant(value=0.1))
    """
    node = {
        "divergence": divergence,
        "estimator": estimator,
        "placement": placement,
        "credit": credit,
        "coefficient": coefficient,
        "weighting": weighting,
        "reference": reference,
        "ratio_to": ratio_to,
        "ratio_cap": ratio_cap,
        "beyond_cap": beyond_cap,
        "clamp": clamp,
        "allow_biased": allow_biased,
    }
    built = build_part("regularizer", absolute_files(node, Path.cwd()), "regularizer")
    try_divergence(built.divergence, "regularizer.divergence")
    return built


def penalty(
    logp: Tensor,
    ref_logp: Tensor,
    mask: Tensor | None = None,
    *,
    divergence: Any = "reverse_kl",
    estimator: Any = "sampled",
    credit: str = "local",
    old_logp: Tensor | None = None,
    seq_ids: Tensor | None = None,
    tokens: Tensor | None = None,
    weights: Tensor | None = None,
    regularizer: Composed | None = None,
) -> Penalty:
    """The penalty of each token, before the coefficient and before any mean: add `beta * (penalty.loss * w).sum()` to your loss.

    `loss` has the gradient of the composed regularizer; `value` is a separate estimate of the divergence.
    The code is that of `align.train`. It computes in float32, or in float64 if an argument is float64.

    Args:
        logp: [B, T] or [T], log pi of the sampled tokens, nats; gradients flow through it. With `estimator: exact` or `top_k` the logits
            or log-probs of the whole vocabulary, [B, T, V] or [T, V].
        ref_logp: The same of the reference; detached.
        mask: bool or 0/1, [B, T] or [T]: 1 for the policy's tokens, 0 for padding, prompts and tool outputs.
        divergence, estimator, credit: As in `align.regularizer`.
        old_logp: [B, T] or [T], log-prob under the policy that drew the tokens: needed if a batch serves several updates. None: `logp`
            is that policy's.
        seq_ids: int [T], the answer index of each token, for packed `logp`; needed by the credits `summed` and `sequence`. The tokens
            of an answer are in order.
        tokens: int [B, T] or [T], the sampled tokens: needed by an estimator over the vocabulary with `credit: summed`.
        weights: float [B, T] or [T], >= 0, detached: the weight of the penalty on each token.
        regularizer: A result of `align.regularizer`, instead of divergence, estimator and credit. Its coefficient and reference are not
            used: `ref_logp` stands for the reference. Give a weighting that reads a batch as `weights`.

    Returns:
        A `Penalty` of tensors [B, T] or [T], 0 at masked tokens. `loss` is differentiable; with `placement: reward` there is `reward`
        instead, detached: subtract beta times it from each token's advantage. `value`, detached, in nats: its sum over an answer
        estimates the divergence of that answer. `shares["clamped"]`, bool: the log-ratio was clamped.

    Raises:
        PenaltyInputError: A ValueError, for shapes, types, layouts and devices that do not fit, and for non-finite numbers at unmasked
            tokens. A logit of -inf is a token that is never sampled, but a whole row of them is no distribution.
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
    if refused := regularizer_refusal(form, default_recipe(form, on_policy=old_logp is None)):
        raise RecipeError("penalty", refused.message)
    if form.placement == "link":
        raise RecipeError("penalty", "placement: link is inside a preference loss: use placement: loss or reward")
    given = columns(form, logp, ref_logp, old_logp, tokens, weights)
    rows = rows_of(given["logp"], form.full_vocabulary, mask, seq_ids, needs_answers=form.credit != "local")
    packed = {name: kept(name, x, rows) for name, x in given.items()}
    check_numbers(packed, form.full_vocabulary)
    if not rows.counts.any():
        none = rows.spread(packed["logp"].flatten())
        return Penalty(value=none.detach(), loss=none) if form.placement == "loss" else Penalty(value=none.detach(), reward=none.detach())
    found = form.penalty(_context(form, packed, rows), NAME)
    placed = {key: rows.spread(x) for key in ("loss", "reward") if (x := getattr(found, key)) is not None}
    return Penalty(value=rows.spread(found.value), shares={key: rows.spread(x) for key, x in found.shares.items()}, **placed)


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
    """A cached form, because building one takes far longer than applying it."""
    return regularizer(divergence, coefficient=1.0, estimator=estimator, credit=credit)


def _context(form: Composed, packed: dict[str, Tensor], rows: Rows) -> TokenContext:
    """The context that the learner gives to a regularizer, for these tokens."""
    at, lengths = rows.packing()
    logp, exact = packed["logp"], {}
    if form.full_vocabulary:
        # Without `tokens`, the log-probs of the sampled tokens are not read.
        sampled = packed.get("tokens", torch.zeros_like(at.seq_ids))
        stats = logits_stats(logp, sampled, packed["ref_logp"], form.divergence, outcomes=form.outcomes if form.merges else None)
        assert stats.div is not None  # a reference was given
        logp, exact = stats.logp, {NAME: stats.div}
    old, none = packed.get("old_logp"), torch.zeros_like(lengths)
    batch = TokenBatch(
        input_ids=none[:, None],
        totals=none,
        lengths=lengths,
        columns=torch.zeros_like(at.seq_ids),
        seq_ids=at.seq_ids,
        positions=at.positions,
        group_ids=torch.arange(len(lengths), device=lengths.device),
        old_logp=old,
        sampler_logp=logp.detach() if old is None else old,
        ref_logp={} if exact else {NAME: packed["ref_logp"]},
        penalty_weights={NAME: packed.get("weights", torch.ones_like(logp.detach()))},
    )
    return TokenContext(batch=batch, logp=logp, entropy=torch.zeros_like(logp.detach()), exact=exact)
