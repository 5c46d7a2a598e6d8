"""Workers run the learner, the engines and the rewards. The loop calls one object with two backends: this process, or Ray actors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from align.config.schema import Recipe
from align.engines import Drawing
from align.errors import UserError
from align.learner.token_penalties import TokenPenalties
from align.types import Group, Prompt, Rewards, Stat, TokenBatch
from align.weight_sync.flattening import Weights
from align.workers.exchange import Exchange


class LearnerLike(Protocol):
    """The learner's methods that the loop calls, in this process or another. Calls to another process make folders absolute."""

    @property
    def version(self) -> int:
        """Number of trained batches."""
        ...

    @property
    def whole(self) -> bool:
        """Whether no update was cut short, so that the state can be kept."""
        ...

    exchange: Exchange
    """Counts the bytes of `compute_logprobs` and `update`."""

    def compute_logprobs(self, batch: TokenBatch) -> TokenBatch: ...

    def update(self, batch: TokenBatch, step: int) -> dict[str, Stat]: ...

    def precompute(self, batch: TokenBatch | None) -> int: ...

    def measure(self, batch: TokenBatch) -> dict[str, Stat]: ...

    def token_penalties(self, batch: TokenBatch) -> TokenPenalties: ...

    def exact_kl(self, batch: TokenBatch) -> Stat: ...

    def reference_info(self) -> dict[str, dict[str, Any]]: ...

    def weights(self) -> Weights: ...

    def save(self, folder: str) -> None: ...

    def load(self, folder: str) -> None: ...

    def export(self, folder: str) -> None: ...


class Workers(Protocol):
    """The contract of both backends, in this process and on Ray.

    With an engine that defines its `units`, they return the same episodes, bit for bit, on the same machine for any number of rollout
    workers."""

    @property
    def learner(self) -> LearnerLike:
        """The learner. Workers opened with `learns=False` have none."""
        ...

    learner_on_gpu: bool
    """False without a learner."""

    def generate(self, prompts: Sequence[Prompt], samples: int, seed: int, drawing: Drawing | None = None) -> list[Group]:
        """`samples` episodes for each prompt, in the order of the prompts, from the weights published last. `drawing`: of held-out
        answers, if not by the recipe's `sampling`.

        An episode's randomness depends on `seed`, its prompt's index in `prompts` and its own index among the samples.
        """
        ...

    def compute_rewards(self, groups: Sequence[Group]) -> Rewards:
        """One reward for each episode, in order, each within `reward_limits.seconds`."""
        ...

    def publish(self, version: int) -> dict[str, float]:
        """Give the learner's weights to every engine. Returns `sync/seconds` and `sync/bytes`."""
        ...

    def memory(self) -> dict[str, float]:
        """Resident bytes of this process (`driver`) and, by role, of the largest process that answers."""
        ...

    def write_stacks(self, file: Path) -> None:
        """Write the stack of every thread of this process and of the workers on its machine. Raises OSError."""
        ...

    def end_hanging(self, reason: str) -> str:
        """End the processes that hang, and return a clause that says what happens then. An engine is restarted; without the learner the
        run stops with this reason. Called from another thread than the loop's."""
        ...

    def close(self) -> None:
        """End every process these workers started. May be called twice."""


def open_workers(
    recipe: Recipe,
    model_dir: str,
    max_prompt_tokens: int,
    address: str | None = None,
    learns: bool = True,
    phase: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Workers:
    """The workers of a recipe, with models loaded.

    Args: model_dir: a Hugging Face folder, readable on every node; max_prompt_tokens: length of the longest prompt of the run;
    address: a Ray cluster to attach to (`auto`, `HOST:PORT` or `ray://HOST:PORT`); None starts a private one; learns: False to only
    generate and compute rewards: no learner is loaded, and no weights can be published; phase: entered around
    what starts, with its name.
    Raises: UserError if the cluster cannot be reached or lacks the resources that the recipe needs.
    """
    # Import only the backend in use: Ray takes seconds to import, and a driver does not need the learner's libraries.
    if recipe.workers.backend == "local":
        if address is not None:
            raise UserError(f"--address {address} changes nothing with workers.backend: local; set workers.backend to ray, or drop it")
        with phase("imports"):
            from align.workers.local import LocalWorkers  # noqa: PLC0415
        with phase("learner and engine" if learns else "engine"):
            return LocalWorkers(recipe, model_dir, max_prompt_tokens, learns)
    with phase("imports"):
        from align.workers.cluster import RayWorkers  # noqa: PLC0415
    return RayWorkers(recipe, model_dir, max_prompt_tokens, address, learns, phase)
