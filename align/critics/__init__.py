"""Critics: estimates, at each token of an answer, of the return that is still to come. Trained beside the policy, checkpointed with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from align.config.parts import Part
from align.config.returned import Returned

if TYPE_CHECKING:
    from align.learner.policy import Policy
    from align.types import TokenBatch


class Critic(Part, ABC):
    """The contract of the part: its keys, and what `start` makes of them. It holds no parameters itself."""

    lr: float | None = None
    """The critic's own learning rate; None: the optimizer's."""

    @abstractmethod
    def start(self, policy: Policy) -> RunningCritic:
        """Make the parameters, by torch's generator, beside the policy as the recipe loads it. Called once a run.

        Raises UserError where a folder does not hold what the critic needs.
        """

    def values_trained(self, whole: int) -> int:
        """How many it trains beside a policy of `whole` values, about: a head on the policy's states is no model."""
        return 0

    def check(self) -> None:
        """Raises ValueError for a key every critic has in common; to be called by `__post_init__`."""
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"lr must be positive, not {self.lr}; without it the critic has the optimizer's")


class RunningCritic(ABC):
    """The contract of what `start` returns. Values are in the unit of the reward, what regularizers take from it included."""

    @abstractmethod
    def trained(self) -> Iterator[tuple[str, Parameter]]:
        """What is trained and checkpointed, beside the policy's own: names begin with `critic.`."""

    @abstractmethod
    def values(self, micro: TokenBatch, hidden: Float[Tensor, "T H"]) -> Float[Tensor, "T"]:
        """float32, V of the state before each response token, differentiable.

        Args: hidden: the policy's state there, with its gradient. A sequence's values depend on its own tokens alone.
        """


def values_of(critic: RunningCritic, micro: TokenBatch, hidden: Float[Tensor, "T H"]) -> Float[Tensor, "T"]:
    """Its `values` of a micro-batch, of which it sees the tokens alone. Raises RecipeError for what is not one number a token."""
    found = critic.values(micro.only(None, critic, "algorithm.critic"), hidden)
    return Returned(critic, "values", "algorithm.critic").numbers(found, len(micro.seq_ids), "the value before each trained token")
