"""A run that is stopped by hand in the middle."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from align.learner.learner import Learner


@contextmanager
def stopped_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C as the update of this step begins; what runs inside must end by it."""
    update = Learner.update

    def until(self: Learner, batch, now: int):
        if now == step:
            raise KeyboardInterrupt
        return update(self, batch, now)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(Learner, "update", until)
        yield
