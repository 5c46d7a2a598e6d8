"""Many answers are cut at the limit of tokens."""

from __future__ import annotations

from collections.abc import Mapping

from align.run.diagnostics import IN_A_ROW, Detector, Finding, InARow

MANY = 0.5
"""Share of answers cut at the limit that is reported."""


class Truncated(Detector):
    """At least half of the answers end at `sampling.max_tokens`, so that their rewards judge fragments."""

    name = "truncated"

    def __init__(self, max_tokens: int):
        self._max_tokens, self._many = max_tokens, InARow()

    def after(self, step: int, metrics: Mapping[str, float]) -> Finding | None:
        share = metrics.get("response/truncated", 0.0)
        if not self._many.reached(share >= MANY):
            return None
        return self.finding(
            f"step {step}: in {IN_A_ROW} steps in a row at least {MANY:.0%} of the answers (here {share:.0%}) were cut at "
            f"sampling.max_tokens={self._max_tokens} before their end, and their rewards judge fragments: ask for shorter answers in the "
            "prompt, use the shaping overlong, or begin with a model that ends its answers; a larger sampling.max_tokens costs time"
        )
