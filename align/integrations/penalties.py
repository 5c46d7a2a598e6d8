"""A regularizer in another training loop than align's: composed in Python, and applied to plain tensors.

`penalty` packs the tokens that count to [T], as the learner does, calls the regularizer's own `penalty`, and gives the result back in
the shape it got. Tokens that do not count never enter a computation, so whatever stands there reaches neither value nor gradient.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.audit.alone import alone
from align.config.nodes import build_part
from align.config.refusals import judged
from align.config.yaml_files import absolute_files
from align.core.logprobs import logits_stats
from align.errors import RecipeError
from align.integrations.plain_tensors import Rows, check_numbers, columns, kept, rows_of
from align.oracle.divergence_check import try_divergence
from align.regularizers import Penalty
from align.regularizers.composed import Composed
from align.types import TokenBatch, TokenContext

NAME = "penalty"
"""The regularizer's entries in the batch."""
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
        estimator: How it is measured: `sampled` and `exact` have its own gradient.
        placement: `loss`, `reward`, or the `link` of a preference loss.
        credit: Which tokens answer for it: `local`, `summed` or `sequence` (`align/core/credit.py`).
        weighting: Which tokens feel it.
        reference: The model that the policy is compared with, under `align.train`; `align.penalty` takes its log-probs.
        ratio_to: Which log-probs samples are weighed against: `old`, or the `sampler`'s.
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
            reference is the model that computed `ref_logp`; a weighting that reads a batch is given as `weights`.

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
    if refused := judged(form, alone(form, on_policy=old_logp is None)):
        raise RecipeError("penalty", refused.told)
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
    """Building one takes far longer than applying it."""
    return regularizer(divergence, coefficient=1.0, estimator=estimator, credit=credit)


def _context(form: Composed, packed: dict[str, Tensor], rows: Rows) -> TokenContext:
    """What the learner hands to a regularizer, of these tokens."""
    at, lengths = rows.packing()
    logp, exact = packed["logp"], {}
    if form.full_vocabulary:
        # Without them the log-probs of the sampled tokens are not looked at.
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
