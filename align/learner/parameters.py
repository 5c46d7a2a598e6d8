"""The parameter values that a forward pass uses."""

from __future__ import annotations

from types import EllipsisType

from torch import Tensor

Override = dict[str, Tensor] | None | EllipsisType
"""Parameter values by name, or one of the two constants below."""
OWN = ...
"""The model's own parameters."""
BASE = None
"""The base model, with the adapter off."""
