"""The regularizers and the coefficient of the examples: value and gradient against exact enumeration, in float64; control."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from helpers.enumeration import NAME, Problem, gradient
from helpers.followed import Followed
from helpers.paths import EXAMPLES
from torch import Tensor
from unit.regularizer_oracles.cells import told

from align.config.nodes import build_part
from align.errors import RecipeError

TREE = Problem(vocabulary=4, depth=3, end=3)
LONG = Problem(vocabulary=3, depth=5, end=2)


def rule(name: str, **keys):
    return build_part("regularizer", {"name": f"{EXAMPLES}/custom_regularizer/my_regularizers.py:{name}", "coefficient": 1.0} | keys, NAME)


def controller(**keys):
    node = {"name": f"{EXAMPLES}/custom_coefficient/my_coefficient.py:PiController", "target": 0.5}
    return Followed(build_part("coefficient", node | keys, NAME))


def check(regularizer, problem: Problem, off_policy: bool, objective: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Its expected value and gradient over all answers are those of `objective(logits, behaviour)`."""
    leaf, ref = problem.random(1).requires_grad_(), problem.random(2)
    old = problem.random(3, 0.5) + leaf.detach() if off_policy else None
    ctx = problem.context(leaf, old, ref, regularizer.divergence if regularizer.full_vocabulary else None, outcomes=regularizer.outcomes)
    penalty = regularizer.penalty(ctx, NAME)
    behaviour = leaf.detach() if old is None else old
    torch.testing.assert_close((ctx.batch.loss_weights * penalty.value).sum(), objective(leaf, behaviour).detach(), rtol=1e-12, atol=0)
    (found,) = torch.autograd.grad((ctx.batch.loss_weights * penalty.loss).sum(), leaf)
    exact = gradient(lambda logits: objective(logits, behaviour), leaf.detach())
    assert exact.norm() > 1e-3
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12 * exact.abs().max().item())
    assert not penalty.value.requires_grad


@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0), (1,), (3, 1, 0, 2)], ids=str)
def test_wasserstein_is_the_work_of_moving_mass_along_the_line(order: tuple[int, ...], off_policy: bool):
    behind = [v for v in range(TREE.vocabulary) if v not in order]

    def objective(logits: Tensor, behaviour: Tensor) -> Tensor:
        moved = torch.softmax(logits, -1) - torch.softmax(TREE.random(2), -1)
        line = torch.stack([moved[:, v] for v in order] + [moved[:, behind].sum(-1)], -1)
        return (TREE.reach(behaviour).detach() * line.cumsum(-1)[:, :-1].abs().sum(-1)).sum()

    check(rule("Wasserstein", order=list(order)), TREE, off_policy, objective)


def test_wasserstein_knows_the_order():
    """All mass one step and three steps away: total variation is 1 for both."""
    regularizer = rule("Wasserstein", order=[0, 1, 2])
    certain = torch.full((4, 4), -torch.inf, dtype=torch.float64).fill_diagonal_(0.0)
    spread = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64).log()
    for logp, ref_logp, distance in ((certain[0], certain[1], 1.0), (certain[0], certain[3], 3.0), (certain[2], spread[0], 1.5)):
        pi, ref = (coins.exp() for coins in regularizer.outcomes(logp[None], ref_logp[None]))
        assert ((pi - ref).abs().sum() / 2).item() == pytest.approx(distance, rel=1e-12)


@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize("window", [1, 2, 4, 9])
def test_repetition_is_the_expected_number_of_repeated_tokens(window: int, off_policy: bool):
    def objective(logits: Tensor, behaviour: Tensor) -> Tensor:
        repeats = torch.tensor([[v in prefix[-window:] for v in range(LONG.vocabulary)] for prefix in LONG.prefixes])
        return (LONG.reach(behaviour).detach() * (torch.softmax(logits, -1) * repeats).sum(-1)).sum()

    check(rule("Repetition", window=window), LONG, off_policy, objective)


def test_repetition_is_refused_on_demonstrations():
    regularizer = rule("Repetition")
    assert "demonstrations" in told(regularizer, on_policy=True, samples=False)
    assert told(regularizer, on_policy=False, samples=True) is None


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("Wasserstein", {"order": [1, 1]}, "different token ids"),
        ("Wasserstein", {"order": []}, "different token ids"),
        ("Wasserstein", {}, "order"),
        ("Repetition", {"window": 0}, "at least 1"),
    ],
)
def test_wrong_keys_are_told(name: str, keys: dict, said: str):
    with pytest.raises(RecipeError, match=said):
        rule(name, **keys)


def test_the_controller_by_hand():
    """Errors 0.2, -0.4, then 9 cut to 1: log(beta/initial) = 0.5 e + 0.1 s, s = 0.2, -0.2, 0.8."""
    part = controller()
    betas = [part.beta(0)]
    for divergence in (0.6, 0.3, 5.0):
        part.update(divergence, 8)
        betas.append(part.beta(1))
    assert betas == pytest.approx([0.1, 0.1 * math.exp(0.12), 0.1 * math.exp(-0.22), 0.1 * math.exp(0.58)], rel=1e-12)


def test_the_controller_meets_its_target():
    """On a policy whose divergence follows beta: d = 0.05/beta is 0.2 at beta 0.25. A proportional rule alone would stop short of it."""
    part = controller(target=0.2)
    for _ in range(500):
        part.update(0.05 / part.beta(0), 8)
    assert part.beta(0) == pytest.approx(0.25, rel=1e-9)


def test_the_controller_does_not_wind_up():
    part = controller(largest_change=10.0)
    for _ in range(1000):
        part.update(1e3, 8)
    assert part.beta(0) == pytest.approx(1.0, rel=1e-12)
    part.update(0.0, 8)
    # The error alone turns by 2 at once, and one step of the sum: log(10) - 0.1 - 0.5.
    assert part.beta(0) == pytest.approx(10 * math.exp(-0.6) * 0.1, rel=1e-12)


def test_the_controller_goes_on_where_it_was():
    one, other = controller(), controller()
    for divergence in (0.6, 0.9, 0.1):
        one.update(divergence, 8)
    assert one.beta(3) != other.beta(3)
    other.state = json.loads(json.dumps(one.state))
    for part in (one, other):
        part.update(0.7, 8)
    assert one.beta(4) == other.beta(4)


@pytest.mark.parametrize("keys", [{"target": 0.0}, {"integral": math.nan}, {"largest_change": 1.0}], ids=str)
def test_wrong_gains_are_told(keys: dict):
    with pytest.raises(RecipeError, match=next(iter(keys))):
        controller(**keys)
