"""What is measured: log-probs or an exact divergence, from logits or hidden states, with a head that is trained or frozen."""

from __future__ import annotations

from dataclasses import dataclass

from kernel_bench.divergences import DIVERGENCES, Measured

BY_HAND = "hand-written"


@dataclass(frozen=True)
class Job:
    """Forward and backward of a mean over tokens: of -log pi, or of a divergence."""

    name: str
    exact: Measured | None = None
    """The divergence, over the whole vocabulary; None: the labels' log-probs."""
    from_logits: bool = False
    frozen_head: bool = False
    """Only the hidden states get a gradient, as where adapters are trained: a GEMM fewer."""

    @property
    def beside(self) -> str:
        """The plain log-prob with as much to differentiate, whose time is the yardstick of this job's."""
        return "logp frozen head" if self.frozen_head else "logp"


_ALL = (
    Job("logits", from_logits=True),
    Job("logp"),
    Job("logp frozen head", frozen_head=True),
    *(Job(name, measured) for name, measured in DIVERGENCES.items()),
    Job("reverse_kl frozen head", DIVERGENCES["reverse_kl"], frozen_head=True),
)
JOBS = {job.name: job for job in _ALL}
