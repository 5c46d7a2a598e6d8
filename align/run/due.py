"""When a run saves a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable

from align.config.schema import Checkpoint


class Due:
    """Counts steps and minutes since the last checkpoint, or since the start."""

    def __init__(self, options: Checkpoint, clock: Callable[[], float] = time.monotonic):
        self._options, self._clock, self._last = options, clock, clock()

    def after(self, done: int) -> bool:
        """Whether a checkpoint is to be saved after `done` steps."""
        minutes = self._options.minutes
        late = minutes is not None and self._clock() - self._last >= 60 * minutes
        return late or bool(self._options.every and done % self._options.every == 0)

    def saved(self) -> None:
        """Restart the clock. Called after a checkpoint is written, so the time that saving takes does not count."""
        self._last = self._clock()
