"""Values of a user's part that the contract excludes stop the run at its key: sign, finite numbers, shapes inside the update, data."""

import json
from pathlib import Path

import pytest
from helpers.bandit_run import kept, start
from helpers.models import tiny_model

from align.errors import UserError

OWN = """
from typing import Any
import torch
from align.algorithms.grpo import Grpo
from align.config.nodes import part
from align.references import Reference, RunningReference
from align.regularizers import Penalty
from align.tasks import Example, Task

class Weighting:
    def weights(self, batch, name): return torch.where(batch.positions == 0, -0.5, 1.0).float()

class Reduction:
    def weights(self, lengths, max_tokens): return lengths.float() * 0

class Multipliers:
    def beta(self, step, state): return 0.1
    def multipliers(self, batch, name, state): return -torch.ones(len(batch.lengths))

class NanBeta:
    def beta(self, step, state): return float("nan") if step == 2 else 0.1

class TensorState:
    def beta(self, step, state): return 0.1
    def initial_state(self): return {"n": 0}
    def update(self, state, divergence, rollouts): return {"n": torch.ones(1)}

class ListState:
    def beta(self, step, state): return 0.1
    def initial_state(self): return [0]

class Scalar:
    def value(self, divergence, log_u): return divergence.khat(log_u).mean()

class NanReference(Reference):
    def start(self, policy): return RunningNan(policy)

class RunningNan(RunningReference):
    def parameters(self): return {n: p.detach().clone() for n, p in self.policy.trained()}
    def hidden(self, micro): return super().hidden(micro) * float("nan")

class NanEstimator:
    def value(self, divergence, log_u): return log_u * float("nan")

class NanSurrogate:
    def loss(self, log_rho, advantages, at): return -log_rho.exp() * advantages / 0, log_rho.detach() > 9
    def effective_log_ratio(self, log_rho, at): return log_rho

class NanLoss(Grpo):
    def loss(self, ctx, advantages):
        loss, stats = super().loss(ctx, advantages)
        return loss * float("nan"), stats

class Numbers(Grpo):
    def loss(self, ctx, advantages): return super().loss(ctx, advantages)[0], {"mine": 3.0}

class NoStats(Grpo):
    def loss(self, ctx, advantages): return super().loss(ctx, advantages)[0], None

class Shares:
    coefficient: Any = part("coefficient", 0.1)
    def penalty(self, ctx, name): return Penalty(value=ctx.logp.detach(), loss=ctx.logp, shares={"mine": 0.5})

class NanPenalty:
    coefficient: Any = part("coefficient", 0.1)
    def penalty(self, ctx, name): return Penalty(value=ctx.logp.detach(), loss=ctx.logp * float("nan"))

class Metrics:
    def metrics(self, batch, name): return 3
    def rewards(self, batch, rewards): return rewards

class Measures(Grpo):
    def measures(self, batch): return {"mine": "high"}

class Base(Task):
    def examples(self): return [Example(id="0", text="1")]
    def suites(self, problems): return {"bandit": self.examples()}
    def judge(self, suite, groups): return {}

class NoExamples(Base):
    def examples(self): return None
class Texts(Base):
    def examples(self): return ["1+1="]
class Dicts(Base):
    def examples(self): return [{"id": "0", "text": "1"}]
class NumberText(Base):
    def examples(self): return [Example(id="0", text=1)]
class NumberId(Base):
    def examples(self): return [Example(id=0, text="1")]
class SameIds(Base):
    def examples(self): return [Example(id="0", text="1"), Example(id="0", text="2")]
class NumberAnswer(Base):
    def examples(self): return [Example(id="0", text="1", answer=2)]
class Fields(Base):
    def examples(self): return [Example(id="0", text="1", fields=[1])]
class Generator(Base):
    def examples(self):
        yield Example(id="0", text="1")
class SuitesList(Base):
    def suites(self, problems): return [Example(id="0", text="1")]
class EmptySuite(Base):
    def suites(self, problems): return {"mine": []}
class JudgeNumber(Base):
    def judge(self, suite, groups): return 0.5
class JudgeText(Base):
    def judge(self, suite, groups): return {"right": "yes"}
"""
KL = "regularizers.kl"


def kl(**keys):
    return {"regularizers": {"kl": {"coefficient": 0.1, **keys}}}


def task(name: str, method: str, says: str):
    return name, {"task": f"MINE:{name}", "evaluation": {"every": 0, "problems": 1}}, "task", f"{name}.{method} returned {says}", None


CASES = [
    ("Weighting", kl(weighting="MINE:Weighting"), f"{KL}.weighting", "weights returned -0.5 at 4 of 4 places, must be >= 0", 0),
    ("Reduction", {"algorithm": {"name": "grpo", "reduction": "MINE:Reduction"}}, "algorithm.reduction", "returned 0 at 4 of 4 places", 0),
    ("Multipliers", kl(coefficient="MINE:Multipliers"), f"{KL}.coefficient", "multipliers returned -1 at 4 of 4 places", 0),
    ("NanBeta", kl(coefficient="MINE:NanBeta"), f"{KL}.coefficient", "is nan at step 2; it must be a number, 0 or more", 2),
    ("TensorState", kl(coefficient="MINE:TensorState"), f"{KL}.coefficient", "as a new dictionary of JSON values", 1),
    ("ListState", kl(coefficient="MINE:ListState"), f"{KL}.coefficient", "`initial_state` of ", None),
    (
        "Scalar",
        kl(estimator="MINE:Scalar"),
        f"{KL}.estimator",
        "Scalar.value returned float64 [], must be float64 [6], one for each log-rat",
        None,
    ),
    (
        "NanReference",
        kl(reference="MINE:NanReference", estimator="exact"),
        f"{KL}.reference",
        "RunningNan.hidden returned nan at 128 of",
        0,
    ),
    ("NanEstimator", kl(estimator="MINE:NanEstimator"), f"{KL}.estimator", "NanEstimator.value returned nan at ", None),
    (
        "NanSurrogate",
        {"algorithm": {"name": "grpo", "surrogate": "MINE:NanSurrogate"}},
        "algorithm.surrogate",
        "NanSurrogate.loss returned ",
        0,
    ),
    ("NanLoss", {"algorithm": "MINE:NanLoss"}, "algorithm", "NanLoss.loss returned nan at 4 of 4 places, must be finite", 0),
    ("Numbers", {"algorithm": "MINE:Numbers"}, "algorithm", "returned 3.0 as 'mine', must be a dict from names to tensors", 0),
    ("NoStats", {"algorithm": "MINE:NoStats"}, "algorithm", "NoStats.loss returned None, must be a dict from names to tensors", 0),
    ("Shares", {"regularizers": {"kl": "MINE:Shares"}}, KL, "Shares.penalty returned 0.5 as 'mine'", 0),
    ("NanPenalty", {"regularizers": {"kl": "MINE:NanPenalty"}}, KL, "NanPenalty.penalty returned nan at 4 of 4 places", 0),
    ("Metrics", {"shapings": {"mine": "MINE:Metrics"}}, "shapings.mine", "Metrics.metrics returned 3, must be a dict from names", 0),
    ("Measures", {"algorithm": "MINE:Measures"}, "algorithm", "Measures.measures returned 'high' as 'mine'", 0),
    task("NoExamples", "examples", "None, must be a list of align.tasks.Example"),
    task("Texts", "examples", "'1+1=' at place 0, must be an align.tasks.Example"),
    task("Dicts", "examples", "{'id': '0', 'text': '1'} at place 0, must be an align.tasks.Example"),
    task("NumberText", "examples", "Example(id='0', text=1"),
    task("NumberId", "examples", "Example(id=0"),
    task("SameIds", "examples", "two examples with the id '0'"),
    task("NumberAnswer", "examples", "Example(id='0', text='1', fields={}, answer=2"),
    task("Fields", "examples", "Example(id='0', text='1', fields=[1]"),
    task("Generator", "examples", "<generator object"),
    task("SuitesList", "suites", "[Example("),
    task("EmptySuite", "suites", "no problem in the suite 'mine'"),
    task("JudgeNumber", "judge", "0.5, must be a dict from names to numbers"),
    task("JudgeText", "judge", "'yes' as 'right'"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(OWN)
    tiny_model(folder / "start")
    return folder


@pytest.mark.parametrize(("name", "changes", "key", "says", "steps"), CASES, ids=[case[0] for case in CASES])
def test_a_value_that_the_contract_excludes(name, changes, key, says, steps, folder: Path):
    own = folder / name
    own.mkdir()
    (own / "start").symlink_to(folder / "start")
    with pytest.raises(UserError) as stop:
        start(own, **json.loads(json.dumps(changes).replace("MINE", f"{folder}/mine.py")))
    message = str(stop.value)
    assert message.startswith(f"{key}: {folder}/mine.py:") and says in message and "\n" not in message
    assert kept(own) == ([] if steps is None else [f"step_{steps:06d}"])
