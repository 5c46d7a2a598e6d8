"""Which values a model is run with."""

from __future__ import annotations

from types import EllipsisType

from torch import Tensor

Override = dict[str, Tensor] | None | EllipsisType
"""Values for the parameters of a model, by name, or one of the two below."""
OWN = ...
"""The parameters the model has."""
BASE = None
"""The base model, its adapter off."""
