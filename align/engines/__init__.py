"""Engines: what generates rollouts. A process runs one at a time; under Ray that is a rollout actor of its own.

`examples/custom_engine/my_engine.py` is a whole one in sixty lines; `align check ./my_engine.py:MyEngine` is its kit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from align.config.frozen import running
from align.config.parts import Part
from align.types import Group, Prompt
from align.weight_sync.packing import Weights


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. Temperature is applied once, alike to sampler, policy and reference, so log-probs compare.

    There is no top-p or top-k: a truncated sampler normalises over another support than the learner.
    """

    temperature: float = 1.0
    max_tokens: int = 64
    """Response tokens, the end token included."""

    def __post_init__(self):
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}: a greedy policy has no log-probs to compare")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")


class Engine(Part, ABC):
    """The contract of the part: its keys, and what `start` makes of them. Constructing one is cheap and imports nothing heavy."""

    device: str = "auto"
    """A torch device, or `auto`: a GPU where its process sees one. An engine that lets the user choose makes this a key."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that its process must have before anything is imported."""
        return {}

    def check_share(self, share: float, why: str) -> None:
        """Raises RecipeError where it cannot work with this share of a GPU's memory, others having the rest. `why`: who they are."""

    def units(self, lengths: Sequence[int], samples: int) -> list[list[int]] | None:
        """How prompts of these lengths are dealt to several processes: the places of the prompts of each call of `generate`.

        The rounding of a log-prob depends on what is computed in one batch with it. An engine that says which prompts those are gives the
        same rollouts, bit for bit, however many processes share the units. None: it makes its own batches, and each process gets an
        equal part of the prompts; their seeds are the same, the last bits need not be.
        """
        return None

    @abstractmethod
    def start(self, model_dir: str, sampling: Sampling, max_prompt_tokens: int) -> RunningEngine:
        """Load the Hugging Face model and tokenizer of `model_dir`. Raises UserError where that cannot work, and leaves nothing behind.

        Args: max_prompt_tokens: of the longest prompt to come.
        """


class RunningEngine(ABC):
    """The contract of what `start` returns: it holds a model, which `load` gives other weights."""

    version: int = 0
    """Of the weights it holds: the steps of the run that came before them, 0 for the initial model."""

    @abstractmethod
    def generate(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int]) -> list[Group]:
        """`samples` rollouts for each prompt, in the order of the prompts.

        An answer is `align.types.Episode.single_turn(token_ids, text, logp, version, finished)`: token_ids int32 [n] with the end token,
        logp float32 [n], version this engine's `version`, finished whether the last token is the end token; else n is
        `sampling.max_tokens`. `Group(prompt=prompt, episodes=tuple(...))` holds those of a prompt.

        The log-probs are those of the distribution that was sampled (after temperature), float32, nats. All randomness of a prompt's
        rollouts comes from its own seed (0 <= seed < 2**62), so order and company change them by rounding only. The same weights, prompts
        and seeds in the same order give the same rollouts, bit for bit.
        """

    @abstractmethod
    def load(self, version: int, weights: Weights) -> None:
        """Replace every weight, and set `version`. Names and shapes are those of the checkpoint in `model_dir`, else ValueError.

        `align.weight_sync.packing.unpack(weights)` gives (name, tensor): read-only views, in the learner's dtype, to be copied from.
        `align.weight_sync.layout.Layout.of(model)`, made in `start`, checks them before the first byte is written.
        """

    def close(self) -> None:
        """Give back memory and processes."""


def started(part: Engine, model_dir: str, sampling: Sampling, max_prompt_tokens: int) -> RunningEngine:
    """What the engine's `start` returns. Raises UserError where that is no running engine."""
    return running(part, part.start(model_dir, sampling, max_prompt_tokens), RunningEngine)
