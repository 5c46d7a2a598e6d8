"""The answers that are compared all have the same reward."""

from __future__ import annotations

from collections.abc import Mapping

from align.run.diagnostics import IN_A_ROW, Detector, Finding, InARow

MOST, MOST_STEPS = 0.8, 10
"""The share of groups without a signal, in as many steps in a row, that is reported as waste."""
STOP_STEPS = 20
"""Steps in a row without a signal, and with a gradient of exactly 0, that stop a run."""
REMEDY = "a reward with partial credit, easier or harder prompts, or more batch.samples gives one"


class NoSignal(Detector):
    """Groups whose answers have equal rewards. It stops a run in which the gradient is 0 as well, or without a batch (`batch.refill`), so
    that nothing changes the policy."""

    name = "no_signal"

    def __init__(self, by_group: bool):
        """Args: by_group: the advantage compares the answers to one prompt; otherwise those of the whole batch."""
        self._compared = "all answers to a prompt" if by_group else "all answers"
        self._none, self._most, self._still = InARow(), InARow(MOST_STEPS), InARow(STOP_STEPS)

    def after(self, step: int, metrics: Mapping[str, float]) -> Finding | None:
        if "groups/no_signal" not in metrics:
            return None
        share = metrics["groups/no_signal"]
        none = self._none.reached(share == 1)
        most = self._most.reached(MOST <= share < 1)
        if self._still.reached(share == 1 and metrics.get("grad/norm", 0.0) == 0):
            return self.finding(
                f"step {step}: in {STOP_STEPS} steps in a row {self._compared} had the same reward (on average "
                f"{metrics['reward/mean']:.3g}) and the gradient was 0, so nothing is learned: {REMEDY}",
                stops=True,
            )
        if none:
            return self.finding(
                f"step {step}: in {IN_A_ROW} steps in a row {self._compared} had the same reward (on average "
                f"{metrics['reward/mean']:.3g}), so there is no signal to learn from: {REMEDY}"
            )
        if most:
            return self.finding(
                f"step {step}: in {MOST_STEPS} steps in a row at least {MOST:.0%} of the prompts had answers of equal reward (here "
                f"{share:.0%}), which teach nothing: {REMEDY}"
            )
        return None
