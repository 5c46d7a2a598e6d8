"""References: the distributions that a regularizer compares the policy with. Versioned, hashed, checkpointed.

Most references are parameters that stand in for the policy's own during one forward pass, so they cost the memory of the
trained parameters only, and nothing with LoRA: there the frozen reference is the model with the adapter off. A reference of
another shape brings a model of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from align.config.parts import Part, Setting
from align.learner.parameters import OWN, Override

if TYPE_CHECKING:
    from align.core.logprobs import Head
    from align.learner.policy import Policy
    from align.types import TokenBatch

OF_ALGORITHM = "algorithm"
"""The name of the algorithm's own reference, beside those of regularizers: in `batch.ref_logp`, metrics and checkpoints."""

CHARGED = (
    "changes nothing: with a critic the penalty is taken at pi_old, which is this reference, so it is 0 throughout; use placement: loss"
)
"""Of a reference that is the policy at the begin of each batch."""


def of_recipe(recipe: Any) -> dict[str, Reference]:
    """Every reference of a recipe: by regularizer, and last the algorithm's own."""
    found = {name: r.reference for name, r in recipe.regularizers.items() if r.reference is not None}
    own = recipe.algorithm.reference
    return found if own is None else found | {OF_ALGORITHM: own}


def owner(name: str) -> str:
    """The recipe key of what compares with the reference of this name."""
    return name if name == OF_ALGORITHM else f"regularizers.{name}"


def place(name: str) -> str:
    """The recipe key of the reference of this name."""
    return f"{owner(name)}.reference"


class Reference(Part, ABC):
    """The contract of the part: its keys, and what `start` makes of them. It holds nothing itself."""

    starts_at_policy = True
    """The first batch must find it equal to the policy; the run is stopped where it does not. False: the distance is reported."""
    changes = False
    """It becomes another during the run, and its version counts that."""
    tokens_only = False
    """Gives the log-probs of the sampled tokens alone (`known`): no states, so no exact form."""
    precomputes = False
    """Gets every ranked answer before the first step (`RunningReference.precompute`), and is asked for no other."""

    @abstractmethod
    def start(self, policy: Policy) -> RunningReference:
        """Take what is needed of the initial policy, as the recipe loads it, before any checkpoint is restored.

        Raises UserError where a folder does not hold what the reference needs.
        """

    def holds(self, lora: bool) -> str:
        """What it costs in memory, in words, for `explain`."""
        return "the adapter alone, or nothing where it is switched off" if lora else "one copy of the trained parameters"

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        """The same in bytes, about: of a policy of `whole` values, `trained` of them, in `width` bytes each."""
        return 0 if lora else trained * width

    def misfit(self, setting: Setting) -> str | None:
        algorithm, regularizer = setting.recipe.algorithm, setting.regularizer
        owner = algorithm if regularizer is None else regularizer
        if not self.tokens_only or owner.reference is not self:
            return None
        if self.precomputes and not algorithm.ranks:
            return (
                f"{algorithm.recipe_name} learns from {algorithm.learns_from}, and only rankings are known before the first step: use "
                "frozen"
            )
        if not self.precomputes and not algorithm.samples:
            return f"{algorithm.recipe_name} learns from {algorithm.learns_from}, which no engine drew: use frozen"
        if regularizer is not None and regularizer.full_vocabulary:
            return "keeps the log-probs of the answers alone, and estimator: exact looks at the whole vocabulary: use frozen"
        return None


class RunningReference(ABC):
    """The contract of what `start` returns: the reference of one run, with its tensors, beside the policy of that run.

    Tensors that `hidden` or `head` have used are replaced, never written into: a batch is scored once and compared until its last
    update.
    """

    version = 0
    """How often it has changed."""
    is_initial = False
    """It is the initial policy throughout, so that other measurements against that need no copy of their own."""
    _hashed: tuple[int, str] | None = None

    def __init__(self, policy: Policy):
        self.policy = policy

    @abstractmethod
    def parameters(self) -> Override:
        """What `model` runs with: other values for its trained parameters, OWN or BASE."""

    @property
    def model(self) -> Policy:
        """The model that runs: the policy, unless the reference has one of its own."""
        return self.policy

    def hidden(self, micro: TokenBatch) -> Tensor:
        """The reference's state that predicts each response token: [T, H]. Called once a batch."""
        return self.model.hidden(micro, self.parameters())

    def head(self) -> Head:
        """The layer that makes logits of `hidden`, of the moment it was taken."""
        return self.model.head(self.parameters())

    def branch(self, micro: TokenBatch) -> TokenBatch | None:
        """The answers after other prompts, where the reference is the policy itself and has a gradient too; None: it has none."""
        return None

    def known(self, micro: TokenBatch) -> Tensor | None:
        """float32 [T], log ref of the sampled tokens where that is known without a forward pass; else None."""
        return None

    def precompute(self, batch: TokenBatch, temperature: float, logp: Callable[[], Tensor]) -> bool:
        """Where it precomputes: know the answers of a batch, by `logp`, which scores it: [T]. Returns whether that was called."""
        return False

    def release(self) -> None:
        """Every answer there will be has been precomputed."""

    def before_batch(self) -> None:
        """Called before a batch is scored."""

    def after_step(self, step: int) -> None:
        """Called after each optimizer step; `step` counts them from 1."""

    def content_hash(self) -> str:
        """16 hex digits of the parameters it stands for: the same after a restart, or it is another reference. Read once a version."""
        if self._hashed is None or self._hashed[0] != self.version:
            self._hashed = self.version, self.compute_hash()
        return self._hashed[1]

    def compute_hash(self) -> str:
        """`content_hash`, of the parameters as they are."""
        return self.model.content_hash(self.parameters())

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers a checkpoint must hold, beside the version."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""

    def restore(self, version: int, state: dict[str, Any]) -> None:
        """Take back what a checkpoint holds."""
        self.load_state_dict(state)
        self.version, self._hashed = version, None


class OwnModel(RunningReference):
    """A reference that is a whole model of its own, beside the policy, and does not change."""

    def __init__(self, policy: Policy, model: Policy):
        super().__init__(policy)
        self._model = model

    @property
    def model(self) -> Policy:
        return self._model

    def parameters(self) -> Override:
        return OWN
