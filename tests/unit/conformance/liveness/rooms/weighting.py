from __future__ import annotations

from typing import Any

from helpers.enumeration import NAME

from liveness import Change
from liveness.batch import context

REQUIRED = {
    "advantage_sign": {"positive": 0.25, "negative": 2.0},
    "entropy_gate": {"keep": "high", "quantile": 0.5},
    "log_ratio_sign": {"above": 2.0, "below": 0.5},
    "normalized": {"of": "reward_guided"},
    "token_mask": {"first": 1},
}
CHANGES = {
    ("entropy_gate", "keep"): Change("low"),
    ("entropy_gate", "threshold"): Change(0.9, {"quantile": None, "threshold": 1.0}),
    ("kl_covariance", "ratio"): Change(0.2),
    ("normalized", "of"): Change({"name": "token_mask", "first": 1}),
    ("reward_guided", "keep"): Change("group"),
    ("token_mask", "token_ids"): Change([2]),
    ("token_mask", "keep"): Change("others"),
}


def probe(part: Any, **_) -> Any:
    return part.weights(context().batch, NAME)
