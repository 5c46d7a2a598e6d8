from __future__ import annotations

from typing import Any

from liveness.batch import context


def probe(part: Any, **_) -> Any:
    return part.weights(context().batch.lengths, 4)
