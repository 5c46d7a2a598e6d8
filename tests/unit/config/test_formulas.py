"""What `explain` prints of a part's maths is the part's own statement, or where to read its code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.config.recipes import build
from align.inspect.explain import objective

OVERRIDDEN = """
from align.algorithms.grpo import Grpo
from align.advantages.leave_one_out import LeaveOneOut
from align.surrogates.clipped import Clipped

class Softer(Clipped):
    '''Clips twice the advantage.'''

    def loss(self, log_rho, advantages, at):
        return super().loss(log_rho, 2 * advantages, at)

class Harder(Softer):
    '''Says what it is.'''

    def formula(self):
        return "2 A"

class Doubled(LeaveOneOut):
    def advantages(self, batch):
        return 2 * super().advantages(batch)

class Loss(Grpo):
    '''Another loss.'''

    def loss(self, ctx, advantages): ...

class Baseline(Grpo):
    '''Another baseline.'''

    def advantages(self, batch): ...

class Mute:
    def loss(self, log_rho, advantages, at): ...
    def effective_log_ratio(self, log_rho, at): ...
"""


def line(text: str) -> int:
    return OVERRIDDEN.splitlines().index(text) + 1


def rows(**algorithm: Any) -> dict[str, str]:
    """Label -> text of the objective that is explained; the last row of a label."""
    return {
        row.label: row.text
        for row in objective(
            build(
                {
                    "steps": 10,
                    "task": "countdown",
                    "reward": "countdown_exact",
                    "algorithm": {"name": "grpo"} | algorithm,
                    "model": {"path": "nowhere"},
                    "batch": {"prompts": 16, "samples": 4},
                }
            )
        )
    }


def test_no_formula_is_printed_that_is_not_the_parts_own(tmp_path: Path):
    """A subclass of a shipped part, or of a shipped algorithm, whose maths is another: the reader is sent to its code."""
    mine = tmp_path / "overridden.py"
    mine.write_text(OVERRIDDEN)

    def see(text: str) -> str:
        return f"its formula is not stated: see {mine}:{line(text)}"

    found = rows(surrogate={"name": f"{mine}:Softer", "clip_low": 0.1})
    assert found[""] == f"J = E Σ_t w_t [ [{see('class Softer(Clipped):')}] ]" and "ρ" not in found
    assert found["A"].startswith("(r − mean)/(std + 0.0001)")
    assert found["surrogate"].startswith(f"{mine}:Softer(clip_low=0.1, clip_high=0.2): Clips twice")
    assert rows(surrogate=f"{mine}:Harder")[""] == "J = E Σ_t w_t [ 2 A ]"
    assert rows(surrogate=f"{mine}:Mute")[""] == f"J = E Σ_t w_t [ [{see('class Mute:')}] ]"
    assert rows(advantage=f"{mine}:Doubled")["A"] == f"[{see('class Doubled(LeaveOneOut):')}]"
    found = rows(name=f"{mine}:Loss")
    assert found[""] == f"J = E Σ_t w_t [ [{see('class Loss(Grpo):')}] ]" and found["A"].startswith("(r − mean)/(std")
    found = rows(name=f"{mine}:Baseline")
    assert "clip(ρ" in found[""] and found["A"] == see("class Baseline(Grpo):") and found["ρ"] == "π/π_old of the token"
