"""Checks of a critic: a value for each state of an answer, computed from that state only, with trainable parameters."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from align.config.frozen import checked_instance
from align.critics import Critic, RunningCritic
from align.testing.findings import Finding, Kit
from align.testing.references import policies
from align.testing.tiny import tiny_model
from align.types import TokenBatch

if TYPE_CHECKING:
    from align.learner.policy import Policy

KIT = Kit("critic")
NOISE = 0.05
"""Noise on each of its parameters, so that a head that starts at zero gives nonzero values."""


def check_critic(part: Any, /, model_dir: Path | None = None, **keys: Any) -> list[Finding]:
    """Run every check of a critic, given by name, as a class with keys, or built, with a whole policy and with LoRA.

    Args: model_dir: the policy's Hugging Face folder; None: a tiny model is made.
    """
    with tempfile.TemporaryDirectory() as made:
        return KIT.run(part, keys, model_dir=model_dir or tiny_model(Path(made)))


def answered() -> TokenBatch:
    """Twelve episodes of one to three trained tokens, prompts of two or three; in every other one a tool output follows the first token."""
    sequences = torch.arange(12)
    prompts, lengths, tool = sequences % 2 + 2, sequences % 3 + 1, sequences % 2
    seq_ids, positions = torch.repeat_interleave(sequences, lengths), torch.cat([torch.arange(n) for n in lengths.tolist()])
    return TokenBatch(
        input_ids=torch.randint(3, 9, (12, 7), generator=torch.Generator().manual_seed(0)),
        totals=prompts + lengths + tool,
        lengths=lengths,
        seq_ids=seq_ids,
        positions=positions,
        columns=prompts[seq_ids] + positions + tool[seq_ids] * (positions > 0),
        group_ids=sequences,
    )


def begun(c: Critic, model_dir: Path, noise: float = NOISE) -> Iterator[tuple[RunningCritic, Policy]]:
    """The critic with each policy, with small noise on its parameters."""
    for policy in policies(model_dir):
        torch.manual_seed(1)
        fresh = checked_instance(c, c.start(policy), RunningCritic)
        with torch.no_grad():
            for _, p in fresh.trained():
                p.add_(noise * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)).to(p.dtype))
        yield fresh, policy


def values(c: RunningCritic, policy: Policy, micro: TokenBatch) -> Tensor:
    return c.values(micro.only(None, c), policy.hidden(micro))


@KIT.check("values", "return float32 [T], one value for each response token, finite whatever the parameters")
def _values(c: Critic, model_dir: Path) -> str | None:
    """finite float32 numbers, one per token, before any update and after"""
    for noise in (0.0, NOISE):
        for fresh, policy in begun(c, model_dir, noise):
            found = values(fresh, policy, answered())
            if found.shape != answered().seq_ids.shape or found.dtype != torch.float32 or not found.isfinite().all():
                return f"{list(found.shape)} {found.dtype}, or not finite, of {len(answered().seq_ids)} tokens"
    return None


@KIT.check("trained", "yield every parameter from `trained`, with a unique name that starts with `critic.` and is the same after a restart")
def _trained(c: Critic, model_dir: Path) -> str | None:
    """named parameters that require a gradient, none of them the policy's, with the same names and values at every start"""
    for (fresh, policy), (copy, _) in zip(begun(c, model_dir), begun(c, model_dir), strict=True):
        found = list(fresh.trained())
        names, own = [n for n, _ in found], {id(p) for p in policy.module.parameters()}
        if not found or len(set(names)) < len(names) or not all(n.startswith("critic.") for n in names):
            return f"the names are {', '.join(names[:3]) or 'none'}"
        if any(id(p) in own for _, p in found):
            return f"{next(n for n, p in found if id(p) in own)} is the policy's"
        if not all(isinstance(p, torch.nn.Parameter) and p.requires_grad for _, p in found):
            return f"{next(n for n, p in found if not p.requires_grad)} requires no gradient"
        other = dict(copy.trained())
        if other.keys() != set(names) or not all(torch.equal(p, other[n]) for n, p in found):
            return "names or first values differ when it is started anew with the same seed"
    return None


@KIT.check("learns", "let gradients flow from the values to the parameters of `trained`; detach none of them")
def _learns(c: Critic, model_dir: Path) -> str | None:
    """gradient steps on only its own parameters reduce the squared error to returns"""
    returns = answered().positions.float() - answered().first_columns[answered().seq_ids]
    for fresh, policy in begun(c, model_dir):
        parameters = [p for _, p in fresh.trained()]
        optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
        errors = []
        for _ in range(10):
            error = (values(fresh, policy, answered()) - returns).square().mean()
            optimizer.zero_grad()
            error.backward()
            if not all(p.grad is None or p.grad.isfinite().all() for p in parameters):
                return "a gradient is not finite"
            optimizer.step()
            errors.append(error.item())
        if not errors[-1] < 0.9 * errors[0]:
            return f"the error goes from {errors[0]:.3g} to {errors[-1]:.3g}"
    return None


@KIT.check("before the token", "read the state from which each token was drawn: `hidden`, or the input up to the token before")
def _before(c: Critic, model_dir: Path) -> str | None:
    """a value depends on the prompt and earlier tokens, and not on the token itself or later ones"""
    whole = answered()
    last = replace(whole, input_ids=whole.input_ids.clone())
    end = torch.arange(len(whole.lengths)), whole.totals - 1
    last.input_ids[end] = 3 + (last.input_ids[end] - 2) % 6
    first = replace(whole, input_ids=whole.input_ids.clone())
    first.input_ids[:, 0] = 3 + (first.input_ids[:, 0] - 2) % 6
    for fresh, policy in begun(c, model_dir):
        found, after, before = (values(fresh, policy, b) for b in (whole, last, first))
        if not torch.allclose(found, after, atol=1e-5):
            return "another last token changes a value"
        if torch.allclose(found, before, atol=1e-5):
            return "another first token of the prompts changes no value"
    return None


@KIT.check("any split", "compute a sequence's values from that sequence only")
def _split(c: Critic, model_dir: Path) -> str | None:
    """each token has the same value in a micro-batch and in the whole batch"""
    whole = answered()
    chosen = torch.arange(0, len(whole.lengths), 3)
    tokens = torch.isin(whole.seq_ids, chosen)
    for fresh, policy in begun(c, model_dir):
        if not torch.allclose(values(fresh, policy, whole.select(chosen)), values(fresh, policy, whole)[tokens], atol=1e-5):
            return "a micro-batch gives other values"
    return None


@KIT.check("repeats", "draw no random numbers and keep no state in `values`")
def _repeats(c: Critic, model_dir: Path) -> str | None:
    """two calls return the same values and do not change the policy"""
    for fresh, policy in begun(c, model_dir):
        kept = policy.content_hash()
        if not torch.equal(values(fresh, policy, answered()), values(fresh, policy, answered())):
            return "the second answer differs"
        if policy.content_hash() != kept:
            return "the policy's parameters have changed"
    return None
