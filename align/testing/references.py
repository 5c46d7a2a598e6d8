"""Checks of a reference: states and a head that no update of the policy overwrites, and that a resumed run restores."""

from __future__ import annotations

import copy
import functools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor

from align.config.frozen import checked_instance
from align.oracle.enumeration import ONE_TOKEN, context, setting
from align.references import Reference, RunningReference
from align.testing.findings import Finding, Kit
from align.testing.tiny import tiny_model
from align.types import TokenBatch

if TYPE_CHECKING:
    from align.learner.policy import Policy

KIT = Kit("reference")


def check_reference(part: Any, /, model_dir: Path | None = None, **keys: Any) -> list[Finding]:
    """Run every check of a reference, given by name, as a class with keys, or built, with a whole policy and with LoRA.

    Args: model_dir: the policy's Hugging Face folder; None: a tiny model is made.
    """
    with tempfile.TemporaryDirectory() as made:
        return KIT.run(part, keys, model_dir=model_dir or tiny_model(Path(made)))


def batch() -> TokenBatch:
    ctx, _ = context(setting(ONE_TOKEN), "unused", dtype=torch.float32)
    ids = torch.where(ctx.batch.input_ids < 0, 3, ctx.batch.input_ids)
    return replace(ctx.batch, input_ids=ids, ref_logp={}, penalty_weights={})


def policies(model_dir: Path) -> Iterator[Policy]:
    """New copies of the folder's policy, whole and with LoRA."""
    config = model_dir / "config.json"
    for rank in (0, 2):
        yield copy.deepcopy(_policy(str(model_dir), config.stat().st_mtime_ns, rank))


@functools.lru_cache(maxsize=2)
def _policy(model_dir: str, changed: int, rank: int) -> Policy:
    """Loaded once for all checks of a part: loading takes several times as long as copying."""
    from align.config.schema import Lora, Model  # noqa: PLC0415
    from align.learner.policy import Policy  # noqa: PLC0415  (the learner's libraries take seconds to import)

    torch.manual_seed(0)
    return Policy(model_dir, Model(path=model_dir, lora=Lora(rank=rank)))


@torch.no_grad()
def move(policy: Policy) -> None:
    """Change the parameters in place, as an optimizer step does."""
    generator = torch.Generator().manual_seed(1)
    for _, p in policy.trained():
        p.add_(0.05 * torch.randn(p.shape, generator=generator))


@torch.no_grad()
def logp(r: Reference, made: RunningReference) -> Tensor:
    """log ref over the vocabulary at each state, [T, V]; [T, 1] for a reference that has only the sampled tokens' log-probs."""
    if _without_states(r):
        if (known := made.known(batch())) is None:
            raise TypeError("`known` returned None, and `tokens_only` states that there are no states")
        return known[:, None]
    return torch.log_softmax(made.head().logits(made.hidden(batch()), 1.0), -1)


def _without_states(r: Reference) -> bool:
    return r.tokens_only and not r.precomputes


def begun(r: Reference, policy: Policy) -> RunningReference:
    made = checked_instance(r, r.start(policy), RunningReference)
    made.before_batch()
    return made


@KIT.check("scores", "return from `start` a RunningReference, with states [T, H] and their head, over the policy's vocabulary")
def _scores(r: Reference, model_dir: Path) -> str | None:
    """finite log-probs over the policy's vocabulary at every state"""
    for policy in policies(model_dir):
        found = logp(r, begun(r, policy))
        wanted = (len(batch().seq_ids), 1 if _without_states(r) else policy.head().weight.shape[0])
        if found.shape != wanted or not found.isfinite().all():
            return f"{list(found.shape)} instead of {list(wanted)}, or not finite"
    return None


@KIT.check("starts at the policy", "set `starts_at_policy = False` if the reference is another model: the run would stop")
def _start(r: Reference, model_dir: Path) -> str | None:
    """with starts_at_policy, it equals the policy at the first batch"""
    for policy in policies(model_dir):
        own = torch.log_softmax(policy.head().logits(policy.hidden(batch()), 1.0), -1)
        gap = (logp(r, begun(r, policy)) - own).abs().max().item()
        if r.starts_at_policy and gap > 1e-5:
            return f"a log-prob differs by {gap:.1e} nats"
    return None


@KIT.check("scored once", "replace tensors, never write into them, and clone the policy's: a batch is compared until its last update")
def _replaced(r: Reference, model_dir: Path) -> str | None:
    """an update of the policy or the reference does not write into the head that computed a batch's log-probs"""
    for policy in () if _without_states(r) else policies(model_dir):
        fresh = begun(r, policy)
        head = fresh.head()
        kept = head.weight.clone()
        move(policy)
        fresh.after_step(1)
        if not torch.equal(head.weight, kept):
            return "the head of a scored batch has changed"
    return None


@KIT.check("version", "add 1 to `version` whenever the reference changes, and set `changes = True` in the part")
def _version(r: Reference, model_dir: Path) -> str | None:
    """its model changes only together with its version, and only if the part has `changes = True`"""
    for policy in policies(model_dir):
        fresh = begun(r, policy)
        for step in (1, 2, 3):
            version, stood_for = fresh.version, logp(r, fresh)
            move(policy)
            fresh.after_step(step)
            fresh.before_batch()
            if fresh.version != version and not r.changes:
                return f"after step {step} it is version {fresh.version}, and the part says that it does not change"
            if fresh.version == version and not torch.equal(logp(r, fresh), stood_for):
                return f"after step {step} it is another, at the same version {version}"
    return None


@KIT.check("runs apart", "create mutable state in `start` and keep it in the returned object, not in the class, the module or `self`")
def _apart(r: Reference, model_dir: Path) -> str | None:
    """changes of one run's reference do not affect another reference of the same part"""
    for policy, other in zip(policies(model_dir), policies(model_dir), strict=True):
        one, kept = begun(r, policy), begun(r, other)
        version, stood_for = kept.version, logp(r, kept)
        for step in (1, 2):
            move(policy)
            one.after_step(step)
            one.before_batch()
        if kept.version != version or not torch.equal(logp(r, kept), stood_for):
            return "it does"
    return None


@KIT.check("known", "return from `known` the log-probs that `hidden` and `head` would give, or None; keep what `precompute` gets")
def _known(r: Reference, model_dir: Path) -> str | None:
    """`known` equals the result of a forward pass; a reference that precomputes has what `precompute` got, and keeps it on disk"""
    answers = batch()
    for policy in () if _without_states(r) else policies(model_dir):
        fresh, expected = begun(r, policy), logp(r, begun(r, policy)).gather(1, answers.tokens[:, None]).squeeze(1)
        if r.precomputes:
            with tempfile.TemporaryDirectory() as kept, patch.dict(os.environ, ALIGN_CACHE=kept):
                told = [one.precompute(answers, 1.0, expected.clone) for one in (fresh, begun(r, policy))]
            fresh.release()
            if told != [True, False] or fresh.known(answers) is None:
                return "`known` lacks the answers that `precompute` got, or computes them again"
        move(policy)
        found = fresh.known(answers)
        if found is not None and (found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-5)):
            return "its stored log-probs are not those that it would compute"
    return None


@KIT.check("resumes", "put every tensor that after_step changes into state_dict; `start` takes the others from the recipe's model again")
def _resumes(r: Reference, model_dir: Path) -> str | None:
    """a copy started from the recipe's model that loads its state has the same content_hash and log-probs"""
    for policy, resumed in zip(policies(model_dir), policies(model_dir), strict=True):
        fresh, copy = begun(r, policy), r.start(resumed)
        for step in (1, 2, 3):
            move(policy)
            move(resumed)
            fresh.after_step(step)
        copy.restore(fresh.version, {n: v.clone() if isinstance(v, Tensor) else v for n, v in fresh.state_dict().items()})
        for one in (fresh, copy):
            one.before_batch()
        if fresh.content_hash() != copy.content_hash() or not torch.equal(logp(r, fresh), logp(r, copy)):
            return "it is another one after a resume"
    return None
