"""The policy as the recipe loads it, for measurements against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from align.learner.parameters import BASE, OWN, Override
from align.learner.policy import Policy
from align.references import RunningReference


class InitialPolicy:
    """Costs nothing where it is at hand: with LoRA it is the model with the adapter off, and a frozen reference holds its parameters.

    Else the model is loaded for the first measurement and kept, beside a GPU in host memory between two of them.
    """

    def __init__(self, policy: Policy, references: Mapping[str, RunningReference]):
        self.policy = policy
        self._frozen = next((r for r in references.values() if r.is_initial), None)
        self._loaded: Policy | None = None

    @contextmanager
    def at_hand(self) -> Iterator[tuple[Policy, Override]]:
        """A model, on the policy's device, and what it runs with."""
        if self.policy.lora:
            yield self.policy, BASE
        elif self._frozen is not None:
            yield self._frozen.model, self._frozen.parameters()
        else:
            if self._loaded is None:
                self._loaded = self.policy.initial()
            self._loaded.module.to(self.policy.device)
            yield self._loaded, OWN
            self._loaded.module.to("cpu")
