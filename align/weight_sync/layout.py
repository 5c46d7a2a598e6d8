"""Checks that a push has every tensor before the first byte is written: an engine with half a model gives wrong log-probs silently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from align.weight_sync.flattening import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHOWN = 3
"""Most tensors that an error names; with a wrong prefix all tensors are wrong."""


@dataclass(frozen=True)
class Layout:
    """The tensors of one checkpoint."""

    shapes: dict[str, tuple[int, ...]]
    """By Hugging Face name; of tied tensors, only the one that the checkpoint keeps."""
    tied: frozenset[str]
    """Names that share another name's tensor, which are not pushed."""
    fused: bool
    """Whether the model in memory has other tensors than its checkpoint (transformers fuses the experts of a mixture)."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> Layout:
        """The layout of a model; its parameters may be on the meta device."""
        from transformers.core_model_loading import revert_weight_conversion  # noqa: PLC0415  (seconds to import)

        owners = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
        state = model.state_dict()
        kept = {name: tensor.to("meta") for name, tensor in state.items() if name in owners}
        saved = revert_weight_conversion(model, kept)
        return cls(
            shapes={name: tuple(t.shape) for name, t in saved.items()},
            tied=frozenset(set(state) - owners),
            fused=saved.keys() != kept.keys(),
        )

    def check(self, weights: Weights) -> None:
        """Raises ValueError naming the tensors that are missing, unknown, tied to another, or of another shape."""
        given = weights.layout
        problems = {
            "missing": [n for n in self.shapes if n not in given],
            "tied to another tensor, to be left out": [n for n in given if n in self.tied],
            "unknown": [n for n in given if n not in self.shapes and n not in self.tied],
            "of another shape": [
                f"{n} {list(given[n])} instead of {list(shape)}" for n, shape in self.shapes.items() if given.get(n, shape) != shape
            ],
        }
        found = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
        if found:
            raise ValueError(f"the weights are not those of the engine's checkpoint; {'; '.join(found)}")


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
