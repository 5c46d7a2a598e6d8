from __future__ import annotations

from typing import Any

from helpers.enumeration import NAME

from liveness import Change
from liveness.runs import updated

REQUIRED = {"composed": {"coefficient": 0.1}}
CHANGES = {
    ("composed", "allow_biased"): Change(True, {"estimator": "k3"}, stops=True),
    ("composed", "divergence"): Change("jensen_shannon"),
    ("composed", "estimator"): Change("exact"),
    ("composed", "coefficient"): Change(0.2),
    ("composed", "weighting"): Change({"name": "token_mask", "first": 1}),
    ("composed", "reference"): Change("ema"),
    ("composed", "placement"): Change("reward"),
    ("composed", "credit"): Change("summed"),
    ("composed", "ratio_to"): Change("sampler"),
    ("composed", "ratio_cap"): Change(1.001),
    ("composed", "beyond_cap"): Change("mask", {"ratio_cap": 1.001}),
    ("composed", "clamp"): Change(1e-3),
}


def probe(part: Any, places: dict[str, str], node: dict) -> Any:
    return updated({"regularizers": {NAME: node}, "algorithm": {"name": "grpo", "epochs": 2}, "optimizer": {"lr": 3e-2}}, places)
