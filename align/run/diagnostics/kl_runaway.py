"""The policy runs away from its reference."""

from __future__ import annotations

from collections.abc import Mapping

from align.run.diagnostics import Detector, Finding, InARow

FAR = 1.0
"""Nats a token (k3) from which the policy and the reference write different texts."""
GROWN = 3.0
"""Times the first step's value: a reference that is another model may be far away from the start."""


class KLRunaway(Detector):
    """`kl/ref/k3` exceeds a nat a token, and three times its first value."""

    name = "kl_runaway"

    def __init__(self):
        self._first: float | None = None
        self._far = InARow()

    def after(self, step: int, metrics: Mapping[str, float]) -> Finding | None:
        if "kl/ref/k3" not in metrics:
            return None
        kl = metrics["kl/ref/k3"]
        self._first = kl if self._first is None else self._first
        if not self._far.reached(kl > max(FAR, GROWN * self._first)):
            return None
        return self.finding(
            f"step {step}: the policy is {kl:.3g} nats a token (k3) away from its reference and was {self._first:.3g} at the first step: a "
            "larger coefficient, or a smaller optimizer.lr, keeps it near; read some answers, as the reward may be exploited"
        )
