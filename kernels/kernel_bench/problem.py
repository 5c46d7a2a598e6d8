"""One shape's data, and what is true of it in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from kernel_bench.jobs import Job


class Shape(NamedTuple):
    tokens: int
    width: int
    vocabulary: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


LARGE = [
    Shape(8192, 4096, 151936),
    Shape(8192, 1536, 151936),
    Shape(8192, 4096, 128256),
    Shape(2048, 4096, 151936),
    Shape(16384, 2048, 32000),
    Shape(32768, 3584, 152064),
]
"""For a GPU; the first is the one to look at, the third the one that others publish."""
SMALL = [Shape(20000, 64, 20), Shape(256, 128, 8192)]
"""For a CPU: the embedded model of `make demo`, and a vocabulary worth cutting."""


@dataclass(frozen=True)
class Problem:
    """A job's operands; every provider gets the same, and differentiates the leaves: what requires a gradient."""

    job: Job
    hidden: Tensor
    weight: Tensor
    labels: Tensor
    ref_hidden: Tensor
    ref_weight: Tensor
    logits: Tensor | None = None
    """For a job from logits."""

    @property
    def leaves(self) -> list[Tensor]:
        return [t for t in (self.logits, self.hidden, self.weight) if t is not None and t.requires_grad]

    def first(self, tokens: int) -> Problem:
        """Its first tokens as a problem of their own."""

        def leaf(t: Tensor) -> Tensor:
            return t.detach().clone().requires_grad_(t.requires_grad)

        logits = None if self.logits is None else leaf(self.logits[:tokens])
        return replace(
            self,
            hidden=leaf(self.hidden[:tokens]),
            weight=leaf(self.weight),
            labels=self.labels[:tokens],
            ref_hidden=self.ref_hidden[:tokens],
            logits=logits,
        )


def problem(job: Job, shape: Shape, dtype: torch.dtype, device: str, drift: float) -> Problem:
    """Logits of standard deviation 3; the reference's hidden states are off by `drift`, as a policy near its reference is."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device)

    hidden, weight = normal(shape.tokens, shape.width), normal(shape.vocabulary, shape.width) * 3 / shape.width**0.5
    ref_hidden, ref_weight = hidden + drift * normal(*hidden.shape), weight.to(dtype)
    labels = torch.randint(shape.vocabulary, (shape.tokens,), generator=generator, device=device)
    logits = (hidden @ weight.T).to(dtype).requires_grad_() if job.from_logits else None
    hidden = hidden.to(dtype).requires_grad_(not job.from_logits)
    weight = weight.to(dtype).requires_grad_(not job.from_logits and not job.frozen_head)
    return Problem(job, hidden, weight, labels, ref_hidden.to(dtype), ref_weight, logits)


def truth(at: Problem) -> tuple[Tensor, list[Tensor]]:
    """The loss and the gradients of the leaves, from the operands in float64."""

    def wide(t: Tensor) -> Tensor:
        return t.detach().double().requires_grad_(t.requires_grad)

    wider = replace(at, hidden=wide(at.hidden), weight=wide(at.weight), logits=None if at.logits is None else wide(at.logits))
    logp = torch.log_softmax(wider.hidden @ wider.weight.T if wider.logits is None else wider.logits, -1)
    if at.job.exact:
        ref = torch.log_softmax(at.ref_hidden.double() @ at.ref_weight.double().T, -1)
        loss = at.job.exact.written(logp, ref).mean()
    else:
        loss = -logp.gather(1, at.labels[:, None]).mean()
    return loss.detach(), list(torch.autograd.grad(loss, wider.leaves))
