"""Two training runs from the same weights, whose engines are on the CPU, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpu_check.findings import Findings

LARGEST_DIFFERENCE = 1e-3
"""Relative, of the first gradient's norm in float32."""

Steps = Sequence[Mapping[str, float]]


def compare(found: Findings, one: Steps, other: Steps) -> None:
    """Later steps may draw apart, once rounding has changed a sampled token.

    Raises ValueError where the first step, of equal weights and equal answers, differs by more than rounding.
    """
    differences = [abs(a["grad/norm"] - b["grad/norm"]) / a["grad/norm"] for a, b in zip(one, other, strict=True)]
    same = [a["response/length"] == b["response/length"] for a, b in zip(one, other, strict=True)]
    found.put("float32 on both: relative difference of the gradient's norm, by step", differences)
    found.put("float32 on both: first steps with answers of equal length", [*same, False].index(False))
    if not same[0]:
        raise ValueError("the answers of the first step differ, though both engines are on the CPU with equal weights")
    if not differences[0] < LARGEST_DIFFERENCE:
        raise ValueError(f"the norm of the first gradient differs by {differences[0]:.1e}, more than {LARGEST_DIFFERENCE:g}")
