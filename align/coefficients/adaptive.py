from dataclasses import dataclass

from align.coefficients import Coefficient, State
from align.config.parts import Setting


@dataclass(frozen=True)
class Adaptive(Coefficient):
    """Ziegler's proportional controller (Ziegler et al. 1909.08593, section 2.2; OpenAI's lm-human-preferences).

    After each step, with `n` rollouts and the measured divergence d: `beta *= 1 + clip(d/target - 1, -0.2, 0.2) * n/horizon`.
    """

    target: float
    """Nats per response (summed over its tokens), as in the paper; not the per-token mean some trainers feed it."""
    initial: float = 0.2
    horizon: float = 10000.0
    """Rollouts over which beta can change by about 20 %."""

    def __post_init__(self):
        for key in ("target", "initial", "horizon"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key} must be positive, not {getattr(self, key)}")

    def initial_state(self) -> State:
        return {"beta": self.initial}

    def beta(self, step: int, state: State) -> float:
        return state["beta"]

    def refuse(self, setting: Setting) -> str | None:
        batch = setting.recipe.batch
        rollouts = batch.prompts * (batch.samples if setting.samples else 1)
        if rollouts >= 5 * self.horizon:
            return f"horizon {self.horizon:g} is too short for {rollouts} rollouts a step: beta could turn negative. Raise it"
        return None

    def update(self, state: State, divergence: float, rollouts: int) -> State:
        if rollouts >= 5 * self.horizon:  # in a loop that is not align's
            raise ValueError(f"horizon {self.horizon:g} is too short for {rollouts} rollouts a step: beta could turn negative")
        error = min(max(divergence / self.target - 1, -0.2), 0.2)
        return {"beta": state["beta"] * (1 + error * rollouts / self.horizon)}
