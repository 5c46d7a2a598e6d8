from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.config.ranges import Count, Seed
from align.divergences.jeffreys import Jeffreys
from align.experience.disturbed_prompts import without
from align.shapings import Shaping
from align.shapings._bonus import bounded
from align.types import Columns, TokenBatch


@dataclass(frozen=True)
class UncertaintyBonus(Shaping):
    """VOGUE for text: advantages rise where a disturbed prompt would change the answer (Liu et al. 2510.01444; the analogue is ours).

    `A + min(|A|/entropy_bound, entropy_gain H)`, and in the groups drawn as noisy also `+ min(|A|/divergence_bound, divergence_gain u)`
    with u = (KL(p||q) + KL(q||p))/2 at each state, p of pi_old after the prompt, q after the disturbed one. The paper adds noise to
    an image and draws the noisy branch's answers under it; here each token before the answer but the last is left out, or masked, with
    probability `share`, and all answers are drawn under the prompt itself.
    """

    needs = frozenset({"entropy"})
    context_divergence = Jeffreys()

    steps: int
    """A group is noisy with probability max(0, 1 - step/steps)."""
    share: float = 0.1
    """Of the tokens before the first trained one, disturbed. Ours: the paper's noise has no counterpart."""
    mask_id: Count | None = None
    """The token id written over a disturbed token; null leaves it out."""
    seed: Seed = 0
    entropy_gain: float = 0.4
    """a_o of the paper."""
    entropy_bound: float = 2.0
    """b_o of the paper."""
    divergence_gain: float = 1.0
    """a_p of the paper."""
    divergence_bound: float = 2.0
    """b_p of the paper."""

    def __post_init__(self):
        if self.steps < 1 or not 0 < self.share < 1:
            raise ValueError("steps must be at least 1 and share must lie in (0, 1)")
        if self.entropy_gain < 0 or self.divergence_gain <= 0:
            raise ValueError("divergence_gain must be positive (without it use entropy_bonus) and entropy_gain >= 0")
        if min(self.entropy_bound, self.divergence_bound) <= 0 or 1 / self.entropy_bound + 1 / self.divergence_bound > 1:
            raise ValueError("1/entropy_bound + 1/divergence_bound must be at most 1: more would turn the sign of a negative advantage")
        if self.mask_id is not None and self.mask_id < 0:
            raise ValueError(f"mask_id must be a token id, not {self.mask_id}")

    def other_context(self, batch: Columns) -> TokenBatch | None:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + batch.step)
        groups = int(batch.group_ids.max()) + 1
        noisy = torch.rand(groups, generator=generator) < 1 - batch.step / self.steps
        # One draw for each place of each group's prompt: its episodes share the disturbed prompt as they share the prompt.
        hit = (torch.rand(groups, batch.input_ids.shape[1], generator=generator) < self.share) & noisy[:, None]
        hit = hit[batch.group_ids] & (torch.arange(hit.shape[1]) < batch.first_columns[:, None] - 1)
        if not hit.any():
            return None
        return without(batch, hit, self.mask_id)

    def advantages(self, batch: Columns, advantages: Float[Tensor, "T"], name: str) -> Float[Tensor, "T"]:
        return (
            advantages
            + bounded(advantages, batch.entropy, self.entropy_gain, self.entropy_bound)
            + bounded(advantages, self._uncertainty(batch, name), self.divergence_gain, self.divergence_bound)
        )

    def metrics(self, batch: Columns, name: str) -> dict[str, float]:
        return {"divergence": self._uncertainty(batch, name).mean().item()}

    def _uncertainty(self, batch: Columns, name: str) -> Float[Tensor, "T"]:
        """u of each token, nats; 0 where the prompt was not disturbed."""
        return batch.contexts[name] / 2 if name in batch.contexts else torch.zeros(len(batch.seq_ids))
