"""When a run on a GPU counts as the CPU's."""

from pathlib import Path

import pytest

from gpu_check.compare import compare
from gpu_check.findings import Findings


def steps(*norms: float, lengths: tuple[float, ...] = (9.0, 9.5, 9.5)) -> list[dict[str, float]]:
    return [{"grad/norm": norm, "response/length": length} for norm, length in zip(norms, lengths, strict=False)]


def test_runs_may_draw_apart_after_the_first_step(tmp_path: Path):
    found = Findings(tmp_path, "train")
    compare(found, steps(2.0, 1.0, 1.0), steps(2.0002, 1.0, 3.0, lengths=(9.0, 9.5, 7.0)))
    differences, same = found.found.values()
    assert differences == pytest.approx([1e-4, 0.0, 2.0]) and same == 2


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (steps(2.01, 1.0, 1.0), "first gradient differs by 5.0e-03"),
        (steps(float("nan"), 1.0, 1.0), "first gradient differs by nan"),
        (steps(2.0, 1.0, 1.0, lengths=(8.0, 9.5, 9.5)), "answers of the first step differ"),
    ],
    ids=["norm", "nan", "answers"],
)
def test_the_first_step_must_agree(other, says, tmp_path: Path):
    with pytest.raises(ValueError, match=says):
        compare(Findings(tmp_path, "train"), steps(2.0, 1.0, 1.0), other)
