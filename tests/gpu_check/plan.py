"""The stages, in the order they run."""

from __future__ import annotations

from dataclasses import dataclass

LIMIT = 470.0
"""Seconds for all of them; the limits of the stages add up to it, so that no stage takes another's time."""


@dataclass(frozen=True)
class Stage:
    """A module with `run(found, device)`, and the seconds it may take."""

    name: str
    limit: float
    about: str
    needs: tuple[str, ...] = ()
    """Packages without which it is not run, beside torch, triton, transformers, peft and pytest."""
    package: str = "gpu_check.stages"

    @property
    def module(self) -> str:
        return f"{self.package}.{self.name}"


STAGES = (
    Stage("probe", 50, "versions, copies, GEMMs by leading dimension, attention"),
    Stage("gpu_tests", 90, "tests/kernels/gpu without the compile cases"),
    Stage("head", 80, "log-prob and exact KL of a 1.5B model's head, by memory budget"),
    Stage("learner", 100, "one GRPO update of a 1.5B model with the exact KL", needs=("omegaconf",)),
    Stage("train", 85, "20 steps on the CPU and on the device, compared", needs=("omegaconf", "matplotlib")),
    Stage("bench", 65, "the kernels' benchmark at published shapes"),
)
