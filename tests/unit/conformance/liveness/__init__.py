"""What the test of liveness looks at: one file a room, with the other value of each key and what is seen of a part."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Change:
    """A key's other value, and the node that both sides share; with `stops`, one side of the two is refused."""

    to: Any
    given: dict[str, Any] = dataclasses.field(default_factory=dict)
    stops: bool = False
