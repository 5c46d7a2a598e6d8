from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from align.references import OwnModel, Reference, RunningReference

if TYPE_CHECKING:
    from align.learner.policy import Policy


@dataclass(frozen=True)
class Soup(Reference):
    """A weighted average, in weight space, of the initial policy and other checkpoints of it (SALSA, Chegini et al. 2411.01798).

    `(1 - sum_i weights_i) * initial + sum_i weights_i * checkpoint_i`, averaged in float32 and then frozen; SALSA's is one other
    SFT run at weight 0.5. With LoRA too the soup is of whole models, adapters merged (the average of two adapters is not the
    adapter of the average), and costs the memory of one.
    """

    starts_at_policy = False

    paths: tuple[str, ...]
    """Hugging Face model folders of the policy's architecture, or peft adapters on the model of the recipe. Relative ones start where that
    of `model.path` does."""
    weights: tuple[float, ...] = ()
    """Of each path; the initial policy has the rest. Empty: all alike, the initial policy too."""

    def __post_init__(self):
        if not self.paths:
            raise ValueError("paths must name at least one checkpoint (the initial policy alone is `reference: frozen`)")
        if self.weights and len(self.weights) != len(self.paths):
            raise ValueError(f"weights must be one for each path: {len(self.paths)}, not {len(self.weights)}")
        if any(w <= 0 for w in self.weights) or sum(self.weights) > 1 + 1e-6:
            raise ValueError("weights must be positive and add up to at most 1: the initial policy has the rest")
        object.__setattr__(self, "paths", tuple(str(Path(p).expanduser().absolute()) for p in self.paths))

    def start(self, policy: Policy) -> RunningReference:
        weights = self.weights or (1 / (1 + len(self.paths)),) * len(self.paths)
        model = policy.initial()
        mean = {n: v * max(1 - sum(weights), 0.0) for n, v in model.whole(policy.model_dir, "model.path").items()}
        for path, weight in zip(self.paths, weights, strict=True):
            for name, value in model.whole(path, "reference soup: paths").items():
                mean[name].add_(value, alpha=weight)
        model.assign(mean)
        return OwnModel(policy, model)

    def holds(self, lora: bool) -> str:
        return "one whole model, averaged at the start"

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        return whole * width
