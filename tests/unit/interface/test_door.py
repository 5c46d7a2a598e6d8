"""A part of the user's own is checked before anything is loaded: `train` and `explain` refuse it with the finding of its kit."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.bandit_run import node
from typer.testing import CliRunner

from align.audit.default_recipe import default_recipe
from align.cli import app
from align.config import recipes, registry
from align.config.nodes import build_part
from align.testing import CHECKS
from align.testing.door import QUICK, check_own_parts

OWN = """
from typing import Any
import torch
from align.algorithms.grpo import Grpo
from align.config.nodes import part
from align.regularizers import Penalty

class NanBeta:
    def beta(self, step, state): return float("nan")
class NegativeBeta:
    def beta(self, step, state): return -0.1
class NoBeta:
    def beta(self, step, state): pass
class TensorBeta:
    def beta(self, step, state): return torch.tensor(0.1)
class Exits:
    def beta(self, step, state): raise SystemExit(3)
class LateBeta:
    def beta(self, step, state): return 0.1 if step < 40 else -1.0
class Good:
    def beta(self, step, state): return 0.1
class Answers:
    def weights(self, batch, name): return torch.ones(len(batch.lengths))
class Negative:
    def weights(self, batch, name): return -torch.ones(len(batch.seq_ids))
class Undeclared:
    def weights(self, batch, name): return batch.old_logp.exp()
class Bug:
    def weights(self, batch, name): return undefined_name
class Writes:
    def weights(self, batch, name): return batch.ref_logp[name].zero_() + 1
class Scalar:
    coefficient: Any = part("coefficient", 0.1)
    def penalty(self, ctx, name):
        return Penalty(value=ctx.logp.detach().mean(), loss=ctx.logp.mean())
class FloatCoefficient:
    coefficient: float = 0.1
    def penalty(self, ctx, name): return Penalty(value=ctx.logp.detach(), loss=ctx.logp)
class Mean(Grpo):
    def loss(self, ctx, advantages): return -(ctx.logp * advantages).mean(), {}
class Alone(Grpo):
    def loss(self, ctx, advantages): return -ctx.logp * advantages
class Soft:
    def loss(self, log_rho, advantages, at): return -log_rho.exp() * advantages, log_rho
    def effective_log_ratio(self, log_rho, at): return log_rho
class OfAnswers:
    needs = frozenset({"rewards"})
    def advantages(self, batch): return batch.rewards
class Lengths:
    def weights(self, lengths, max_tokens): return lengths
class MeanValue:
    def value(self, divergence, log_u): return divergence.khat(log_u).mean()
class Shaping:
    def rewards(self, batch, rewards): return rewards.mean()
"""
KL = "regularizers.kl"


def kl(**keys):
    return {"regularizers": {"kl": {"coefficient": 0.1, **keys}}}


CASES = {
    "NanBeta": (kl(coefficient="MINE:NanBeta"), f"{KL}.coefficient", "it is nan at step 0"),
    "NegativeBeta": (kl(coefficient="MINE:NegativeBeta"), f"{KL}.coefficient", "it is -0.1 at step 0"),
    "NoBeta": (kl(coefficient="MINE:NoBeta"), f"{KL}.coefficient", "it is None at step 0"),
    "TensorBeta": (kl(coefficient="MINE:TensorBeta"), f"{KL}.coefficient", "it is tensor(0.1000) at step 0"),
    "Exits": (kl(coefficient="MINE:Exits"), f"{KL}.coefficient", "SystemExit: 3"),
    "LateBeta": (kl(coefficient="MINE:LateBeta"), f"{KL}.coefficient", "it is -1 at step 40"),
    "Answers": (kl(weighting="MINE:Answers"), f"{KL}.weighting", "[40] torch.float32 for 115 tokens"),
    "Negative": (kl(weighting="MINE:Negative"), f"{KL}.weighting", "one is -1"),
    "Undeclared": (kl(weighting="MINE:Undeclared"), f"{KL}.weighting", "Undeclared reads batch.old_logp and does not declare it"),
    "Bug": (kl(weighting="MINE:Bug"), f"{KL}.weighting", "NameError: name 'undefined_name' is not defined"),
    "Writes": (kl(weighting="MINE:Writes"), f"{KL}.weighting", "Writes reads batch.ref_logp and does not declare it"),
    "Scalar": ({"regularizers": {"kl": "MINE:Scalar"}}, KL, "value [] torch.float32, loss [] torch.float32, of 115 tokens"),
    "FloatCoefficient": ({"regularizers": {"kl": "MINE:FloatCoefficient"}}, KL, "must be a Coefficient, not 0.1: annotate the key as"),
    "Mean": ({"algorithm": "MINE:Mean"}, "algorithm", "return (loss [T], statistics {name: [N]})"),
    "Alone": ({"algorithm": "MINE:Alone"}, "algorithm", "return (loss [T], statistics {name: [N]})"),
    "Soft": ({"algorithm": {"name": "grpo", "surrogate": "MINE:Soft"}}, "algorithm.surrogate", "cut bool [T]"),
    "OfAnswers": ({"algorithm": {"name": "grpo", "advantage": "MINE:OfAnswers"}}, "algorithm.advantage", "x[batch.seq_ids]"),
    "Lengths": ({"algorithm": {"name": "grpo", "reduction": "MINE:Lengths"}}, "algorithm.reduction", "int64"),
    "MeanValue": (kl(estimator="MINE:MeanValue"), f"{KL}.estimator", "one for each log-ratio"),
    "Shaping": ({"shapings": {"mine": "MINE:Shaping"}}, "shapings.mine", "return detached float32 rewards [S]"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(OWN)
    return folder


def recipe(folder: Path, name: str, changes) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(node(folder / "no model", **changes)).replace("MINE", f"{folder}/mine.py"))
    return file


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("command", ["train", "explain"])
def test_a_part_that_fails_a_quick_check(command: str, name: str, folder: Path, monkeypatch):
    monkeypatch.chdir(folder)
    changes, key, says = CASES[name]
    found = CliRunner().invoke(app, [command, str(recipe(folder, name, changes))])
    assert found.exit_code == 2, found.output
    assert found.stderr.startswith(f"{key}: ") and says in found.stderr and found.stderr.count("\n") == 1
    assert f"{folder}/mine.py:" in found.stderr or name == "FloatCoefficient"
    assert "Traceback" not in found.output and not (folder / "runs").exists()


def test_no_check_leaves_it_to_the_run(folder: Path, monkeypatch):
    monkeypatch.chdir(folder)
    started = []
    monkeypatch.setitem(sys.modules, "align.train", SimpleNamespace(train=lambda *arguments, **keys: started.append(arguments)))
    file = str(recipe(folder, "late", CASES["LateBeta"][0]))
    assert CliRunner().invoke(app, ["train", file]).exit_code == 2 and started == []
    assert CliRunner().invoke(app, ["train", file, "--no-check"]).exit_code == 0 and len(started) == 1


def test_a_good_part_costs_little(folder: Path):
    built = recipes.load(recipe(folder, "good", kl(coefficient="MINE:Good")))
    check_own_parts(built)  # imports
    began = time.perf_counter()
    check_own_parts(built)
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("kind", QUICK)
def test_the_quick_checks_are_checks_of_the_kit(kind: str):
    kit = sys.modules[CHECKS[kind].__module__].KIT
    assert set(QUICK[kind]) <= {check.name for check in kit.checks} and kit.kind == kind
    assert kind in registry.ROOMS


def test_a_part_with_token_ids_of_its_model_is_left_to_the_run(tmp_path):
    """The checks have four tokens, a model has more."""
    (tmp_path / "ids.py").write_text(
        "from align.config.nodes import part\nfrom align.divergences.total_variation import TotalVariation\n"
        "from align.regularizers import Penalty\nfrom typing import Any\n"
        "class Ids:\n    coefficient: Any = part('coefficient')\n    reference: Any = part('reference', 'frozen')\n"
        "    full_vocabulary = True\n    divergence = TotalVariation()\n"
        "    def outcomes(self, logp, ref_logp): return logp[:, [0, 9]], ref_logp[:, [0, 9]]\n"
        "    def penalty(self, ctx, name): return Penalty(value=ctx.exact[name].detach(), loss=ctx.exact[name])\n"
    )
    regularizer = build_part("regularizer", {"name": f"{tmp_path}/ids.py:Ids", "coefficient": 0.1}, "regularizers.ids")
    check_own_parts(default_recipe(regularizer, "ids"))
