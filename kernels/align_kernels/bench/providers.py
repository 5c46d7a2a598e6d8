"""Everyone who can do a job: forward and backward of a mean over tokens, each as its own users would call it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from align_kernels import Compared, Head, linear_objective, linear_token_stats, token_stats, weighted
from align_kernels.backends import unavailable
from align_kernels.bench.divergences import DIVERGENCES
from align_kernels.bench.problem import Problem

FLOOR = "floor"
"""The provider that does only what cannot be avoided, and computes nothing: GEMMs for a head, one read and one write for logits."""
CHUNK = 1024
"""Tokens at a time of those who cut by tokens (Liger's default for its compiled losses)."""

Loss = Callable[[Problem], Tensor | None]


def ours(backend: str, blocks: int | None = None) -> Loss:
    """The composable form: statistics forward, gradient backward. `blocks`: with memory for so small a part of the logits."""

    def loss(at: Problem) -> Tensor:
        if at.job == "logits":
            return -token_stats(at.logits, at.labels, backend=backend).logp.mean()
        keys = {"backend": backend, "ignore_index": None}
        if blocks:
            keys["elements"] = len(at.labels) * len(at.weight) * (1 + (at.job in DIVERGENCES)) // blocks
        if at.job == "logp":
            return -linear_token_stats(at.hidden, at.weight, at.labels, logits_dtype=_wide(at), **keys).logp.mean()
        return linear_token_stats(at.hidden, at.weight, at.labels, at.ref_hidden, at.ref_weight, DIVERGENCES[at.job].divergence,
                                  **keys).div.mean()

    return loss


def ours_in_one_sweep(backend: str) -> Loss:
    """The gradient in the forward pass."""

    def loss(at: Problem) -> Tensor:
        weight = torch.full_like(at.labels, 1 / len(at.labels), dtype=torch.float32)
        exact = at.job in DIVERGENCES
        compared = {"d": Compared(DIVERGENCES[at.job].divergence, at.ref_hidden, Head(at.ref_weight))} if exact else {}
        objective = weighted(div={"d": weight}) if exact else weighted(logp=-weight)
        return linear_objective(at.hidden, Head(at.weight), at.labels, objective, compared=compared, backend=backend,
                                logits_dtype=_wide(at), ignore_index=None)[0]

    return loss


def _wide(at: Problem) -> torch.dtype:
    return torch.promote_types(at.hidden.dtype, torch.float32)


def from_logits(at: Problem, z: Tensor, u: Tensor | None, labels: Tensor) -> Tensor:
    """The loss of each token, as most trainers write it: logits in the model's type, then float32."""
    logp = torch.log_softmax(z.float(), -1)
    if at.job in DIVERGENCES:
        return DIVERGENCES[at.job].written(logp, torch.log_softmax(u.float(), -1))
    return -logp.gather(1, labels[:, None])[:, 0]


def eager(at: Problem) -> Tensor:
    return _whole(at.logits, at.hidden, at.weight, at)


def _whole(logits: Tensor | None, hidden: Tensor, weight: Tensor, at: Problem) -> Tensor:
    z = hidden @ weight.T if logits is None else logits
    with torch.no_grad():
        u = at.ref_hidden @ at.ref_weight.T if at.job in DIVERGENCES else None
    return from_logits(at, z, u, at.labels).mean()


def compiled_whole() -> Loss:
    return torch.compile(eager, dynamic=False)


def compiled_chunks() -> Loss:
    """torch.compile of a chunk's loss and gradient, the gradient in the forward pass: how Liger's chunked losses are made."""

    def of_chunk(hidden: Tensor, weight: Tensor, ref_hidden: Tensor, ref_weight: Tensor, labels: Tensor, at: Problem) -> Tensor:
        u = ref_hidden @ ref_weight.T if at.job in DIVERGENCES else None
        return from_logits(at, hidden @ weight.T, u, labels).sum()

    gradient = torch.func.grad_and_value(of_chunk, argnums=(0, 1))
    compiled: dict[str, Callable] = {}

    def loss(at: Problem) -> Tensor:
        # The problem is closed over, so that the job is a constant for the compiler.
        run = compiled.setdefault(at.job, torch.compile(lambda *tensors: gradient(*tensors, at), dynamic=False))
        total, of_hidden, of_weight = 0.0, [], torch.zeros_like(at.weight, dtype=torch.float32)
        for i in range(0, len(at.labels), CHUNK):
            chosen = slice(i, i + CHUNK)
            grads, value = run(at.hidden[chosen].detach(), at.weight.detach(), at.ref_hidden[chosen], at.ref_weight, at.labels[chosen])
            total = total + value
            of_hidden.append(grads[0])
            of_weight += grads[1]
        count = len(at.labels)
        return _Given.apply(total / count, torch.cat(of_hidden) / count, of_weight.to(at.weight.dtype) / count, at.hidden, at.weight)

    return loss


class _Given(torch.autograd.Function):
    """A value whose gradients are known already."""

    @staticmethod
    def forward(ctx, value, of_hidden, of_weight, hidden, weight):
        ctx.save_for_backward(of_hidden, of_weight)
        return value.clone()

    @staticmethod
    def backward(ctx, upstream):
        return None, None, None, *(g * upstream.to(g.dtype) for g in ctx.saved_tensors)


def torch_linear_cross_entropy(at: Problem) -> Tensor:
    return torch.nn.functional.linear_cross_entropy(at.hidden, at.weight, at.labels)


def trl() -> Loss:
    from trl.trainer.utils import selective_log_softmax  # noqa: PLC0415 - optional, and slow to import

    return lambda at: -selective_log_softmax(at.logits, at.labels).mean()


def liger_cross_entropy() -> Loss:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # noqa: PLC0415 - optional

    loss = LigerFusedLinearCrossEntropyLoss()
    return lambda at: loss(at.weight, at.hidden, at.labels)


def liger_jsd() -> Loss:
    """One Triton kernel on log-probs."""
    from liger_kernel.transformers import LigerFusedLinearJSD  # noqa: PLC0415 - optional

    loss = LigerFusedLinearJSD()
    return lambda at: loss(at.hidden, at.weight, at.ref_hidden, at.ref_weight)


def liger_compiled_jsd() -> Loss:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss  # noqa: PLC0415 - optional

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0)
    return lambda at: loss(at.hidden, at.weight, at.ref_hidden, at.ref_weight, at.labels)


def floor(at: Problem) -> None:
    """3 GEMMs of a head's forward and backward, 4 with a reference; of logits, one read and one write."""
    if at.logits is not None:
        torch.empty_like(at.logits).copy_(at.logits.detach())
        return
    hidden, weight = at.hidden.detach(), at.weight.detach()
    for i in range(0, len(hidden), 4 * CHUNK):
        h = hidden[i : i + 4 * CHUNK]
        z = h @ weight.T
        if at.job in DIVERGENCES:
            at.ref_hidden[i : i + 4 * CHUNK] @ at.ref_weight.T
        z @ weight
        z.T @ h


def available(job: str, device: str) -> dict[str, Callable[[], Loss]]:
    """Who can do this job on this machine, by name; each makes its loss when asked, for some compile or import."""
    liger, on_gpu = importlib.util.find_spec("liger_kernel") is not None, device == "cuda"
    found: dict[str, Callable[[], Loss]] = {FLOOR: lambda: floor}
    for backend in ("triton", "compile", "torch"):
        if unavailable(backend, device) is None:
            found[f"ours {backend}"] = lambda backend=backend: ours(backend)
            if job != "logits":
                found[f"ours {backend}, one sweep"] = lambda backend=backend: ours_in_one_sweep(backend)
                found[f"ours {backend}, 16 blocks"] = lambda backend=backend: ours(backend, blocks=16)
    found |= {"torch eager": lambda: eager, "torch.compile": compiled_whole}
    if job != "logits":
        found["torch.compile chunks"] = compiled_chunks
    if job == "logits" and importlib.util.find_spec("trl"):
        found["trl"] = trl
    if job == "logp" and hasattr(torch.nn.functional, "linear_cross_entropy"):
        found["torch linear_cross_entropy"] = lambda: torch_linear_cross_entropy
    if job == "logp" and liger and on_gpu:
        found["liger"] = liger_cross_entropy
    if job == "jensen_shannon" and liger:
        found["liger compiled chunks"] = liger_compiled_jsd
        if on_gpu:
            found["liger"] = liger_jsd
    return found
