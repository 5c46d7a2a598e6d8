"""Everyone who can do a job: forward and backward of a mean over tokens, each as its own users would call it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from align_kernels import Compared, Head, linear_stats, token_stats
from align_kernels.backends import Rows, unavailable
from kernel_bench.divergences import DIVERGENCES
from kernel_bench.jobs import BY_HAND, Job
from kernel_bench.problem import Problem

FLOOR = "floor"
"""The provider that does only what cannot be avoided, and computes nothing: GEMMs for a head, one read and one write for logits."""
CHUNK = 1024
"""Tokens at a time of those who cut by tokens (Liger's default for its compiled losses)."""

Loss = Callable[[Problem], Tensor | None]


def ours(backend: str | Rows, blocks: int | None = None) -> Loss:
    """Statistics forward, gradient backward. `blocks`: with memory for this part of the logits (1: all, kept)."""

    def loss(at: Problem) -> Tensor:
        if at.logits is not None:
            return -token_stats(at.logits, at.labels, backend=backend).logp.mean()
        keys = {"backend": backend, "ignore_index": None}
        if blocks:
            keys["elements"] = len(at.labels) * len(at.weight) * (2 if at.job.exact else 1) // blocks
        if at.job.exact is None:
            return -linear_stats(at.hidden, Head(at.weight), at.labels, logits_dtype=_wide(at), **keys).logp.mean()
        compared = {"ref": Compared(at.job.exact.divergence, at.ref_hidden, Head(at.ref_weight))}
        return linear_stats(at.hidden, Head(at.weight), at.labels, compared=compared, **keys).div["ref"].mean()

    return loss


def by_hand() -> Rows:
    """What the generated kernels of the reverse KL are held against."""
    from kernel_bench.hand_written import reverse_kl  # noqa: PLC0415 - triton is optional

    return reverse_kl()


def _wide(at: Problem) -> torch.dtype:
    return torch.promote_types(at.hidden.dtype, torch.float32)


def from_logits(at: Problem, z: Tensor, u: Tensor | None, labels: Tensor) -> Tensor:
    """The loss of each token, as most trainers write it: logits in the model's type, then float32."""
    logp = torch.log_softmax(z.float(), -1)
    if at.job.exact is None:
        return -logp.gather(1, labels[:, None])[:, 0]
    assert u is not None  # Only a job of log-probs has no reference.
    return at.job.exact.written(logp, torch.log_softmax(u.float(), -1))


def eager(at: Problem) -> Tensor:
    return _whole(at.logits, at.hidden, at.weight, at)


def _whole(logits: Tensor | None, hidden: Tensor, weight: Tensor, at: Problem) -> Tensor:
    z = hidden @ weight.T if logits is None else logits
    with torch.no_grad():
        u = at.ref_hidden @ at.ref_weight.T if at.job.exact else None
    return from_logits(at, z, u, at.labels).mean()


def compiled_whole() -> Loss:
    return torch.compile(eager, dynamic=False)


def compiled_chunks() -> Loss:
    """torch.compile of a chunk's loss and gradient, the gradient in the forward pass: how Liger's chunked losses are made."""

    def of_chunk(hidden: Tensor, weight: Tensor, ref_hidden: Tensor, ref_weight: Tensor, labels: Tensor, at: Problem) -> Tensor:
        u = ref_hidden @ ref_weight.T if at.job.exact else None
        return from_logits(at, hidden @ weight.T, u, labels).sum()

    compiled: dict[Job, Callable] = {}

    def loss(at: Problem) -> Tensor:
        # The problem is closed over, so that the job is a constant for the compiler.
        gradient = torch.func.grad_and_value(of_chunk, argnums=tuple(range(len(at.leaves))))
        run = compiled.setdefault(at.job, torch.compile(lambda h, w, rh, rw, y: gradient(h, w, rh, rw, y, at), dynamic=False))
        total, of_hidden, of_head = 0.0, [], [torch.zeros_like(leaf, dtype=torch.float32) for leaf in at.leaves[1:]]
        for i in range(0, len(at.labels), CHUNK):
            chosen = slice(i, i + CHUNK)
            grads, value = run(at.hidden[chosen].detach(), at.weight.detach(), at.ref_hidden[chosen], at.ref_weight, at.labels[chosen])
            total = total + value
            of_hidden.append(grads[0])
            for whole, part in zip(of_head, grads[1:], strict=True):
                whole += part
        count = len(at.labels)
        grads = [torch.cat(of_hidden), *(g.to(at.weight.dtype) for g in of_head)]
        return _Given.apply(total / count, [g / count for g in grads], *at.leaves)

    return loss


class _Given(torch.autograd.Function):
    """A value whose gradients are known already."""

    @staticmethod
    def forward(ctx, value, gradients, *leaves):
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    def backward(ctx, *grad_outputs):
        (upstream,) = grad_outputs
        return None, None, *(g * upstream.to(g.dtype) for g in ctx.saved_tensors)


def torch_linear_cross_entropy(at: Problem) -> Tensor:
    return torch.nn.functional.linear_cross_entropy(at.hidden, at.weight, at.labels)


def trl() -> Loss:
    from trl.trainer.utils import selective_log_softmax  # noqa: PLC0415 - optional, and slow to import

    def loss(at: Problem) -> Tensor:
        assert at.logits is not None  # `available` offers it for jobs from logits.
        return -selective_log_softmax(at.logits, at.labels).mean()

    return loss


def liger_cross_entropy() -> Loss:
    loss = importlib.import_module("liger_kernel.transformers").LigerFusedLinearCrossEntropyLoss()
    return lambda at: loss(at.weight, at.hidden, at.labels)


def liger_jsd() -> Loss:
    """One Triton kernel on log-probs."""
    loss = importlib.import_module("liger_kernel.transformers").LigerFusedLinearJSD()
    return lambda at: loss(at.hidden, at.weight, at.ref_hidden, at.ref_weight)


def liger_compiled_jsd() -> Loss:
    loss = importlib.import_module("liger_kernel.chunked_loss").LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0)
    return lambda at: loss(at.hidden, at.weight, at.ref_hidden, at.ref_weight, at.labels)


def floor(at: Problem) -> None:
    """3 GEMMs of a head's forward and backward, one more with a reference, one fewer frozen; of logits, one read and one write."""
    if at.logits is not None:
        torch.empty_like(at.logits).copy_(at.logits.detach())
        return
    hidden, weight = at.hidden.detach(), at.weight.detach()
    for i in range(0, len(hidden), 4 * CHUNK):
        h = hidden[i : i + 4 * CHUNK]
        z = h @ weight.T
        if at.job.exact:
            at.ref_hidden[i : i + 4 * CHUNK] @ at.ref_weight.T
        z @ weight
        if not at.job.frozen_head:
            z.T @ h


def available(job: Job, device: str) -> dict[str, Callable[[], Loss]]:
    """Who can do this job on this machine, by name; each makes its loss when asked, for some compile or import."""
    liger, on_gpu = importlib.util.find_spec("liger_kernel") is not None, device == "cuda"
    log_prob = job.exact is None and not job.from_logits
    found: dict[str, Callable[[], Loss]] = {FLOOR: lambda: floor}
    for backend in ("triton", "compile", "torch"):
        if unavailable(backend, device) is None:
            found[f"ours {backend}"] = lambda backend=backend: ours(backend)
            if not job.from_logits:
                found[f"ours {backend}, logits kept"] = lambda backend=backend: ours(backend, blocks=1)
                found[f"ours {backend}, 16 blocks"] = lambda backend=backend: ours(backend, blocks=16)
    if job.exact is DIVERGENCES["reverse_kl"] and unavailable("triton", device) is None:
        found[f"{BY_HAND} triton"] = lambda: ours(by_hand())
        found[f"{BY_HAND} triton, logits kept"] = lambda: ours(by_hand(), blocks=1)
    found |= {"torch eager": lambda: eager, "torch.compile": compiled_whole}
    if not job.from_logits:
        found["torch.compile chunks"] = compiled_chunks
    if job.from_logits and importlib.util.find_spec("trl"):
        found["trl"] = trl
    if log_prob and hasattr(torch.nn.functional, "linear_cross_entropy"):
        found["torch linear_cross_entropy"] = lambda: torch_linear_cross_entropy
    if log_prob and liger and on_gpu:
        found["liger"] = liger_cross_entropy
    # Its chunked losses differentiate a head whether or not it is trained.
    if job.exact is DIVERGENCES["jensen_shannon"] and not job.frozen_head and liger:
        found["liger compiled chunks"] = liger_compiled_jsd
        if on_gpu:
            found["liger"] = liger_jsd
    return found
