"""The policy as the recipe loads it, for measurements against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from align.learner.parameters import BASE, OWN, Override
from align.learner.policy import Policy
from align.references import RunningReference


class InitialPolicy:
    """Uses no extra memory with LoRA (the adapter is switched off) or with a frozen reference, which holds the initial parameters.

    Otherwise the first measurement loads the model. Between measurements it stays in host memory.
    """

    def __init__(self, policy: Policy, references: Mapping[str, RunningReference]):
        self.policy = policy
        self._frozen = next((r for r in references.values() if r.is_initial), None)
        self._loaded: Policy | None = None

    @contextmanager
    def at_hand(self) -> Iterator[tuple[Policy, Override]]:
        """A model on the policy's device, and the parameters to run it with."""
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
