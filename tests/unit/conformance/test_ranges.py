"""Every numeric key of every section and part, with the numbers that are none of its business."""

import dataclasses
import math
import typing
from typing import Annotated

import pytest
from annotated_types import Gt, Interval
from liveness.leaves import CHANGES, LEAVES, REQUIRED
from liveness.nodes import START, merged

from align.config import ranges, recipes, registry
from align.config.nodes import build_part
from align.config.schema import Recipe
from align.errors import RecipeError

MAY_BE_INFINITE = {"coefficient.feasible.resilience", "loss_weighting.feasible.resilience", "recipe.optimizer.max_grad_norm"}
MAY_BE_NEGATIVE = {
    "algorithm.ppo.risk",
    "divergence.alphanet.low",
    "divergence.cressie_read.power",
    "divergence.symmetric_cross_entropy.floor",
    "likelihood.symmetric_ce.log_zero",
    "recipe.evaluation.correct",
    "recipe.reward_limits.failure_score",
    "shaping.length_complexity.solved_at",
    "shaping.munchausen.floor",
    "shaping.off_policy_mask.threshold",
    "weighting.difficulty.solved_at",
    "weighting.reward_guided.solved_at",
}


def annotation(kind: str, part: str, field: str) -> typing.Any:
    if kind != "recipe":
        return typing.get_type_hints(registry.resolve(kind, part, ""))[field]
    cls = Recipe
    for key in filter(None, part.split(".")):
        cls = next(f.metadata["section"] for f in dataclasses.fields(cls) if f.name == key)
    return typing.get_type_hints(cls)[field]


def numeric() -> dict[str, tuple[str, str, str, bool]]:
    """By its path: kind, part, field, and whether it holds several numbers."""
    found = {}
    for kind, part, field, _ in LEAVES:
        hint = str(annotation(kind, part, field))
        if "'int'" in hint or "'float'" in hint or hint in ("int | None", "float | None") or "tuple[int" in hint or "tuple[float" in hint:
            found[".".join(filter(None, (kind, part, field)))] = (kind, part, field, "tuple" in hint)
    return found


NUMERIC = numeric()


def built(path: str, value: float) -> None:
    kind, part, field, several = NUMERIC[path]
    keys = ((kind, part, field), (kind, "*", field), (kind, part, "*"))
    given = next((CHANGES[key].given for key in keys if key in CHANGES), {})
    node = {field: [value, value] if several else value}
    if kind == "recipe":
        for key in reversed(part.split(".") if part else []):
            node = {key: node}
        recipes.build(merged(merged(START, given), node))
    else:
        build_part(kind, {"name": part} | REQUIRED.get((kind, part), {}) | given | node, kind)


def accepts(path: str, value: float) -> bool:
    """Any other exception than a RecipeError is a failure."""
    try:
        built(path, value)
    except RecipeError:
        return False
    return True


def test_the_table_is_of_every_numeric_key():
    assert len(NUMERIC) > 150 and {"recipe.seed", "recipe.optimizer.betas", "surrogate.sapo.temperature"} <= NUMERIC.keys()


@pytest.mark.parametrize(
    ("value", "allowed"),
    [(math.nan, set()), (math.inf, MAY_BE_INFINITE), (-math.inf, set()), (1e300, set()), (2**80, set()), (-1, MAY_BE_NEGATIVE)],
    ids=["nan", "inf", "-inf", "beyond float32", "beyond 64 bits", "-1"],
)
def test_no_other_key_accepts(value: float, allowed: set[str]):
    of_reals = {p for p in NUMERIC if "float" in str(annotation(*NUMERIC[p][:3]))} if value == 2**80 else set()
    assert {path for path in NUMERIC if accepts(path, value)} - of_reals == allowed


@pytest.mark.parametrize(
    ("hint", "value", "says"),
    [
        (float, math.nan, "nan is not a number: give one"),
        (float, math.inf, "must be finite, not inf"),
        (float, 1e39, "must be within float32 (at most 3.4e+38), not 1e+39"),
        (int, 2**31, "must be below 2147483648, not 2147483648"),
        (ranges.Seed, 2**31, None),
        (ranges.Seed, 2**32, "must be below 4294967296, not 4294967296"),
        (Annotated[float, Gt(0)] | None, 0, "must be above 0, not 0"),
        (Annotated[float, Gt(0)] | None, None, None),
        (tuple[Annotated[float, Interval(ge=0, lt=1)], ...], [0.5, 1.0], "must be below 1, not 1"),
        (bool, True, None),
        (str, "1e999", None),
        (Annotated[float, ranges.Infinite()], math.inf, None),
        (Annotated[float, ranges.Infinite()], math.nan, "nan is not a number: give one"),
    ],
)
def test_a_range_is_named(hint, value, says):
    assert ranges.refusal(value, hint) == says


def test_a_users_key_has_a_range_too(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from typing import Annotated\nfrom annotated_types import Gt\n"
        "class Mine:\n    power: Annotated[float, Gt(0)] = 0.5\n    def f(self, log_u):\n        return (self.power * log_u).expm1() ** 2\n"
    )
    for value, says in ((-1, "must be above 0, not -1"), (math.inf, "must be finite"), (1e300, "must be within float32")):
        with pytest.raises(RecipeError, match=rf"^kl\.power: {says}"):
            build_part("divergence", {"name": f"{tmp_path}/mine.py:Mine", "power": value}, "kl")
