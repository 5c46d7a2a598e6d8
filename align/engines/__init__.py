"""Engines generate rollouts. A process runs one engine; under Ray each has its own rollout actor.

After every update an engine gets the learner's weights by `RunningEngine.load`; `align/weight_sync` transfers them.

`examples/custom_engine/my_engine.py` is a complete engine in sixty lines; test one with `align check ./my_engine.py:MyEngine`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from align.config.frozen import checked_instance
from align.config.parts import Part
from align.config.ranges import AtLeastOne, NotNegative
from align.types import Group, Prompt
from align.weight_sync.flattening import Weights


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. Sampler, policy and reference use the same temperature, so their log-probs are comparable.

    There is no top-p or top-k: a truncated sampler would normalise over a different support than the learner. Held-out answers may
    have a top-p (`evaluation.sampling`).
    """

    temperature: float = 1.0
    max_tokens: AtLeastOne = 64
    """Response tokens, the end token included."""

    def __post_init__(self):
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}: a greedy policy has no log-probs to compare")


@dataclass(frozen=True, kw_only=True)
class HeldOutSampling:
    """How the tokens of held-out answers are drawn, if not as those that are learned from."""

    temperature: NotNegative | None = None
    """0: the most probable token, always. null: `sampling.temperature`."""
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Only the most probable tokens are drawn that together have this probability, after temperature."""

    def __post_init__(self):
        if self.temperature == 0 and self.top_p != 1:
            raise ValueError("top_p changes nothing with temperature: 0, which draws the most probable token")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """The distribution of a token, as a function of the logits of the ids that have a token."""

    temperature: float
    """0: all probability is at the largest logit."""
    top_p: float = 1.0


class Engine(Part, ABC):
    """The contract of the part: its keys, and `start`, which loads the model. Construction is cheap and imports nothing heavy."""

    device: str = "auto"
    """A torch device, or `auto`: a GPU if its process sees one. An engine with a choice of devices declares this as a key."""
    dtype: str = "auto"
    """Precision of its model, or `auto`: the saved model's. An engine with a choice of precisions declares this as a key."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables to set in the engine's process before any import."""
        return {}

    def check_share(self, share: float, why: str) -> None:
        """Raises RecipeError if the engine cannot work with this share of a GPU's memory. `why`: which processes use the rest."""

    def units(self, lengths: Sequence[int], samples: int) -> list[list[int]] | None:
        """Splits prompts of these lengths into units: the prompt indices of each call of `generate`.

        A log-prob's rounding depends on the other rows of its batch. With fixed units the rollouts are the same, bit for bit, for any
        number of processes. None: the engine makes its own batches, and each process gets an equal part of the prompts with the same
        seeds; the last bits may then differ.
        """
        return None

    @abstractmethod
    def start(self, model_dir: str, sampling: Sampling, max_prompt_tokens: int) -> RunningEngine:
        """Load the Hugging Face model and tokenizer in `model_dir`. Raises UserError if that fails, after freeing what it loaded.

        Args: max_prompt_tokens: length of the longest prompt of the run.
        """


class HeldOutEngine(Engine):
    """An engine that can draw held-out answers by another distribution than `sampling`. Other engines refuse `evaluation.sampling`."""

    @abstractmethod
    def start(self, model_dir: str, sampling: Sampling, max_prompt_tokens: int) -> RunningHeldOutEngine: ...


class RunningEngine(ABC):
    """The contract of the object that `start` returns: a loaded model, whose weights `load` replaces."""

    version: int = 0
    """Of the weights it holds: the steps of the run that came before them, 0 for the initial model."""

    @abstractmethod
    def generate(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int]) -> list[Group]:
        """`samples` rollouts for each prompt, in the order of the prompts.

        An answer is `align.types.Episode.single_turn(token_ids, text, logp, version, finished)`: token_ids int32 [n] with the end token,
        logp float32 [n], version this engine's `version`, finished whether the last token is the end token; otherwise n is
        `sampling.max_tokens`. `Group(prompt=prompt, episodes=tuple(...))` collects the answers to a prompt.

        `align.vocabulary.words.Words(model_dir, tokenizer)` has the end tokens, the text for rewards, and the ids that may be drawn: the
        learner normalises over the ids that have a token, and an engine must draw from those alone.

        The log-probs are those of the sampled distribution (after temperature), float32, in nats. All randomness of a prompt's rollouts
        comes from the prompt's seed (0 <= seed < 2**62), so the other prompts change them by rounding only. The same weights, prompts and
        seeds in the same order give the same rollouts, bit for bit.
        """

    @abstractmethod
    def load(self, version: int, weights: Weights) -> None:
        """Replace every weight, and set `version`. Raises ValueError if names or shapes are not those of the checkpoint in `model_dir`.

        `align.weight_sync.flattening.unflatten(weights)` yields (name, tensor): read-only views in the learner's dtype, to copy from.
        Make `align.weight_sync.layout.Layout.of(model)` in `start` and call its `check` before the first copy.
        """

    def close(self) -> None:
        """Free memory and end processes."""


class RunningHeldOutEngine(RunningEngine):
    """The contract of the object that `start` of a `HeldOutEngine` returns."""

    @abstractmethod
    def generate_held_out(self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int], drawing: Drawing) -> list[Group]:
        """`generate`, with tokens drawn by `drawing` in place of `sampling.temperature`. Nothing is learned from these answers.

        What `generate` returns later does not depend on these calls.
        """


def start_engine(part: Engine, model_dir: str, sampling: Sampling, max_prompt_tokens: int) -> RunningEngine:
    """The running engine that `start` returns. Raises UserError if it does not derive from the contract of its part."""
    contract = RunningHeldOutEngine if isinstance(part, HeldOutEngine) else RunningEngine
    return checked_instance(part, part.start(model_dir, sampling, max_prompt_tokens), contract)
