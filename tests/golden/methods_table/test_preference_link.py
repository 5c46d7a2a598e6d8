"""Section B of the methods' oracle table: the scores of f-DPO, by TRL and by hand (rows 18 to 22)."""

from __future__ import annotations

import ast
import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from golden.methods_table.toys import close
from torch import Tensor

from align.divergences import Divergence
from align.divergences.alpha import Alpha
from align.divergences.chi_squared_kl import ChiSquaredKl
from align.divergences.forward_kl import ForwardKl
from align.divergences.hellinger import Hellinger
from align.divergences.jeffreys import Jeffreys
from align.divergences.jensen_shannon import JensenShannon
from align.divergences.neyman import Neyman
from align.divergences.pearson import Pearson
from align.divergences.reverse_kl import ReverseKl
from align.divergences.tsallis import Tsallis


def trl_scores(f_divergence_type: str, alpha: float, log_u: Tensor) -> Tensor:
    """The scores of TRL's DPO trainer, by its own lines: the `if self.f_divergence_type == ...` of `_compute_loss`."""
    folder = importlib.util.find_spec("trl").submodule_search_locations[0]
    tree = ast.parse((Path(folder) / "trainer" / "dpo_trainer.py").read_text())
    (method,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "_compute_loss")
    lines = next(n for n in ast.walk(method) if isinstance(n, ast.If) and ast.unparse(n.test) == "self.f_divergence_type == 'reverse_kl'")
    names = {
        "self": SimpleNamespace(f_divergence_type=f_divergence_type, f_alpha_divergence_coef=alpha),
        "torch": torch,
        "math": math,
        "F": torch.nn.functional,
        "chosen_logratios": log_u,
        "rejected_logratios": log_u,
    }
    exec(compile(ast.Module([lines], []), "dpo_trainer.py", "exec"), names)
    return names["chosen_scores"]


@pytest.mark.parametrize(
    ("f_divergence_type", "alpha", "divergence"),
    [
        ("reverse_kl", 0.5, ReverseKl()),
        ("forward_kl", 0.5, ForwardKl()),
        ("js_divergence", 0.5, JensenShannon()),
        ("alpha_divergence", 0.7, Alpha(alpha=0.3)),
        ("alpha_divergence", 0.1, Alpha(alpha=0.9)),
    ],
    ids=["reverse_kl", "forward_kl", "js", "alpha_0.3", "alpha_0.9"],
)
def test_f_dpo_scores_are_those_of_trl(f_divergence_type, alpha, divergence):
    """Up to a constant, which cancels between chosen and rejected; alpha_TRL = 1 - alpha. float32, the only type TRL's alpha takes."""
    log_u = torch.linspace(-6, 6, 241)
    ours, theirs = divergence.grad_weight(log_u), trl_scores(f_divergence_type, alpha, log_u)
    torch.testing.assert_close(ours - ours[0], theirs - theirs[0], rtol=2e-6, atol=2e-6)
    assert (ours - ours[0])[1:].min() > 0.01


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        (ReverseKl(), 0.6539469673),
        (ForwardKl(), 0.6566712851),
        (JensenShannon(), 0.6743140211),
        (Hellinger(), 0.6741788897),
        (Alpha(alpha=0.3), 0.6549929733),
        (Pearson(), 0.6064726656),
        (Neyman(), 0.6230764016),
        (Jeffreys(), 0.6189551502),
        (Tsallis(q=1.7), 0.6219871058),
        (ChiSquaredKl(), 0.6113937712),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Divergence) else "",
)
def test_rows_18_to_22_the_preference_link(divergence, expected):
    """-log sigmoid(beta (c_w - c_l)) on the pair lr_w = .5, lr_l = -.3, beta = .1."""
    chosen, rejected = divergence.grad_weight(torch.tensor([0.5, -0.3], dtype=torch.float64))
    close(-torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)), expected)
