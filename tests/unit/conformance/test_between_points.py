"""A wrong value or slope close to the reference, between two quarters of a nat, in float32 alone or of many tokens alone is found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import align
from align.audit.targets import certificates
from align.divergences import Divergence
from align.errors import RecipeError
from align.estimators import Estimator
from align.oracle.divergence_check import fault
from align.surrogates import Surrogate
from align.testing.surrogates import check_surrogate


@dataclass(frozen=True)
class Changed(Divergence):
    """KL(pi||ref), with one change."""

    change: str = "none"

    def f(self, log_u):
        x, kl = log_u, log_u.exp() * log_u
        return {
            "none": lambda: kl + 3 * x.expm1(),
            "close": lambda: torch.where((x > 0) & (x < 0.1), kl + x**2 / 2, kl),
            "bump": lambda: kl + 0.3 * torch.exp(-(((x - 1) / 0.02) ** 2)),
            "many": lambda: kl * (1 + 1e-3 * (x.numel() > 500)),
            "float32": lambda: kl * (1.1 if x.dtype == torch.float32 else 1),
        }[self.change]()


@dataclass(frozen=True)
class Sampled(Estimator):
    """The exact weight, with one change."""

    change: str = "none"
    weighted = True

    def value(self, divergence, log_u):
        return divergence.khat(log_u)

    def grad_weight(self, divergence, log_u):
        right = divergence.grad_weight(log_u)
        return {
            "none": lambda: right + 2,
            "close": lambda: torch.where((log_u.abs() > 0.01) & (log_u.abs() < 0.05), 0.5 * right, right),
            "bump": lambda: torch.where((log_u > 1.01) & (log_u < 1.05), 0.0, right),
            "many": lambda: right * (log_u.numel() < 300),
            "float32": lambda: right * (2 if log_u.dtype == torch.float32 else 1),
        }[self.change]()


@dataclass(frozen=True)
class Turning(Surrogate):
    """A policy gradient whose sign turns far from pi_old."""

    def loss(self, log_rho, advantages, at):
        rho = log_rho.exp()
        return -torch.where(log_rho.abs() > 1, -rho, rho) * advantages, torch.zeros_like(log_rho, dtype=torch.bool)

    def effective_log_ratio(self, log_rho, at):
        return log_rho.detach()

    def formula(self):
        return "rho A"


@pytest.mark.parametrize("change", ["close", "bump", "many", "float32"])
def test_a_divergence_that_is_wrong_somewhere(change: str):
    assert fault(Changed(change)) is not None


@pytest.mark.parametrize("change", ["close", "bump", "many", "float32"])
def test_an_estimator_that_is_wrong_somewhere(change: str):
    assert align.audit(align.regularizer(estimator=Sampled(change), coefficient=0.1)).verdict == "biased"


def test_right_ones_are_not():
    assert fault(Changed()) is None
    assert align.audit(align.regularizer(estimator=Sampled(), coefficient=0.1)).verdict == "exact"


def test_a_surrogate_whose_sign_turns_far_from_pi_old():
    assert not next(f for f in check_surrogate(Turning()) if f.name == "effective ratio").passed


@pytest.mark.parametrize(
    ("key", "source"),
    [
        ("regularizers.kl.weighting", "class Mine:\n    def weights(self, batch, name):\n        return -torch.ones(len(batch.seq_ids))\n"),
        (
            "algorithm.surrogate",
            "class Mine:\n    def loss(self, log_rho, advantages, at):\n        return log_rho.exp() * advantages, log_rho != log_rho\n"
            "    def effective_log_ratio(self, log_rho, at):\n        return log_rho.detach()\n"
            "    def formula(self):\n        return 'A'\n",
        ),
    ],
    ids=["weighting", "surrogate"],
)
def test_a_recipe_is_not_certified_with_another_part_that_is_wrong(tmp_path: Path, key: str, source: str):
    (tmp_path / "mine.py").write_text("import torch\n" + source)
    with pytest.raises(RecipeError, match=rf"{key}: {tmp_path}/mine.py"):
        certificates("countdown_grpo", [f"{key}={tmp_path}/mine.py:Mine"])
