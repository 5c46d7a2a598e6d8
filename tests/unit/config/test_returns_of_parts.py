"""A part of one's own that states no formula, returns what its contract does not allow or lacks a method: its key, line and remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.models import tiny_model
from helpers.rollouts import groups

from align.config.recipes import build
from align.contexts import Link, TokenContext
from align.errors import RecipeError, UserError
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.inspect.explain import objective
from align.learner import objective as training
from align.learner.learner import Learner
from align.learner.metric_accumulator import MetricAccumulator
from align.oracle.enumeration import TREE, UPDATE, context, setting
from align.testing import check
from align.testing.targets import kind_of

UNSTATED = {
    "likelihood": """
class Part:
    '''-(1 - pi)^g log pi.'''
    g: float = 2.0
    def losses(self, ctx):
        return -((1 - ctx.logp.exp()) ** self.g) * ctx.logp
""",
    "surrogate": """
class Part:
    '''-rho A.'''
    def loss(self, log_rho, advantages, at):
        return -log_rho.exp() * advantages, log_rho.detach() > 9
    def effective_log_ratio(self, log_rho, at):
        return log_rho
""",
    "preference": """
class Part:
    '''exp(-beta (s_w - s_l)).'''
    def losses(self, pairs):
        return (-pairs.beta * pairs.margin).clamp(max=20).exp()
""",
    "advantage": """
class Part:
    '''r.'''
    def advantages(self, batch):
        return batch.rewards[batch.seq_ids]
""",
    "reduction": """
class Part:
    '''1/n.'''
    def weights(self, lengths, max_tokens):
        return 1 / lengths.float() / len(lengths)
""",
}
"""Parts that work and have no formula: the docstring of a loss is that of what is minimised."""
HOLDERS = {"likelihood": "sft", "surrogate": "grpo", "preference": "dpo", "advantage": "grpo", "reduction": "grpo"}
ROWS = {"advantage": "A", "reduction": "w_t"}
"""Where `explain` writes their formula, if not in J."""


def node(algorithm: dict[str, Any], **changes: Any) -> dict[str, Any]:
    found = {"steps": 10, "task": "countdown", "algorithm": algorithm, "model": {"path": "nowhere"}, "batch": {"prompts": 4, "samples": 2}}
    if algorithm["name"] in ("sft", "dpo"):
        found |= {"batch": {"prompts": 4}, "task": {"name": "countdown", "demonstrations": True}}
    else:
        found["reward"] = "countdown_exact"
    if algorithm["name"] == "dpo":
        found |= {"task": {"name": "preferences", "path": "pairs.jsonl"}, "regularizers": {"kl": {"placement": "link", "coefficient": 0.1}}}
    return found | changes


def written(folder: Path, text: str) -> str:
    (folder / "mine.py").write_text(text)
    return f"{folder}/mine.py"


@pytest.mark.parametrize("kind", UNSTATED)
def test_no_docstring_stands_in_the_objective(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    mine = written(tmp_path, UNSTATED[kind])
    (tmp_path / "pairs.jsonl").touch()
    rows: dict[str, str] = {}
    for row in objective(build(node({"name": HOLDERS[kind], kind: f"{mine}:Part"}))):
        rows.setdefault(row.label, row.text)
    assert "[its formula is not stated: see mine.py:2]" in rows[ROWS.get(kind, "")]


@pytest.mark.parametrize("kind", UNSTATED)
def test_the_kit_asks_for_a_formula(kind: str, tmp_path: Path):
    mine = written(tmp_path, UNSTATED[kind])
    (failed,) = (f for f in check(kind, f"{mine}:Part") if not f.passed)
    assert (failed.name, failed.found) == ("explained", f"its formula is not stated: see {mine}:2")
    assert failed.mend.startswith("define formula(self) -> str")


# What training gets

NAME = "kl"
EARLY = {
    "advantage of answers": ("algorithm.advantage", "advantages(self, batch)", "batch.rewards", "float32 [40]"),
    "advantage of integers": ("algorithm.advantage", "advantages(self, batch)", "batch.seq_ids", "int64 [115]"),
    "advantage that is none": ("algorithm.advantage", "advantages(self, batch)", "None", "None"),
    "advantage of nan": (
        "algorithm.advantage",
        "advantages(self, batch)",
        "batch.rewards[batch.seq_ids] * float('nan')",
        "nan at 115 of 115",
    ),
    "weighting of answers": ("regularizers.kl.weighting", "weights(self, batch, name)", "batch.lengths.float()", "float32 [40]"),
    "weighting of flags": ("regularizers.kl.weighting", "weights(self, batch, name)", "batch.positions > 0", "bool [115]"),
    "weighting with a gradient": (
        "regularizers.kl.weighting",
        "weights(self, batch, name)",
        "batch.positions.float().requires_grad_()",
        "float32 [115] with a gradient",
    ),
    "weighting without end": ("regularizers.kl.weighting", "weights(self, batch, name)", "1 / batch.positions", "inf at 40 of 115"),
    "multipliers of tokens": (
        "regularizers.kl.coefficient",
        "multipliers(self, batch, name, state)",
        "batch.positions.float()",
        "float32 [115]",
    ),
    "shaping of a mean": ("shapings.mine", "rewards(self, batch, rewards)", "rewards.mean()", "float32 []"),
    "shaping of answers": ("shapings.mine", "advantages(self, batch, advantages, name)", "batch.lengths.float()", "float32 [40]"),
    "algorithm": ("algorithm", "advantages(self, batch)", "batch.rewards", "float32 [40]"),
}
"""Before the updates: key, method, what it returns, and what the error says of that."""


def refused(folder: Path, key: str, method: str, says: str, call: Any) -> str:
    """What training says must be returned."""
    with pytest.raises(RecipeError) as error:
        call()
    line = (folder / "mine.py").read_text().splitlines().index(f"    def {method}:") + 1
    name = method.partition("(")[0]
    expected = f"{folder}/mine.py:{line}: Mine.{name} returned {says}"
    assert (error.value.where, error.value.problem[: len(expected)]) == (key, expected)
    return error.value.problem.partition(", must be ")[2]


@pytest.mark.parametrize("case", EARLY)
def test_what_the_whole_batch_is_prepared_by(case: str, tmp_path: Path):
    key, method, returned, says = EARLY[case]
    base = "(Grpo)" if key == "algorithm" else ""
    beta = "    def beta(self, step, state): return 0.1\n" if key.endswith("coefficient") else ""
    head = f"from align.algorithms.grpo import Grpo\nclass Mine{base}:\n{beta}    needs = frozenset({{'rewards'}})\n"
    mine = written(tmp_path, f"{head}    def {method}:\n        return {returned}\n") + ":Mine"
    regularizer = {"coefficient": mine if key.endswith("coefficient") else 0.1}
    if key.endswith("weighting"):
        regularizer["weighting"] = mine
    algorithm = {"name": "grpo", "advantage": mine} if key.endswith("advantage") else {"name": mine if base else "grpo"}
    recipe = build(node(algorithm, regularizers={NAME: regularizer}, **({"shapings": {"mine": mine}} if key == "shapings.mine" else {})))
    batch = context(setting(TREE, UPDATE), NAME, dtype=torch.float32)[0].batch
    wanted = refused(tmp_path, key, method, says, lambda: prepare_batch(recipe, batch))
    if "finite" not in wanted:
        count = 40 if case in ("multipliers of tokens", "shaping of a mean") else 115
        assert wanted.startswith(f"float32 [{count}], detached, one for each {'trained token' if count == 115 else 'answer'}")


SURROGATE = "loss(self, log_rho, advantages, at)"
LATE = {
    "scalar": ("surrogate", SURROGATE, "log_rho.mean(), log_rho > 9", "float32 [] with a gradient", "float32 [115]"),
    "one value": ("surrogate", SURROGATE, "-log_rho * advantages", "float32 [115] with a gradient", "a pair: the loss, float32 [115]"),
    "three values": ("surrogate", SURROGATE, "log_rho, log_rho, log_rho", "a tuple of 3", "a pair: the loss"),
    "cut": ("surrogate", SURROGATE, "log_rho, log_rho.detach()", "float32 [115]", "bool [115], where a bound cut"),
    "ratio": ("surrogate", "effective_log_ratio(self, log_rho, at)", "log_rho.sum()", "float32 []", "float32 [115], detached"),
    "mean": ("likelihood", "losses(self, ctx)", "-ctx.logp.mean()", "float32 [] with a gradient", "float32 [115], one for each trained"),
    "half": ("likelihood", "losses(self, ctx)", "-ctx.logp.half()", "float16 [115] with a gradient", "float32 [115]"),
    "pairs": ("preference", "losses(self, pairs)", "pairs.margin.mean()", "float32 []", "float32 [20], one for each pair"),
    "rankings": ("preference", "of_rankings(self, rankings)", "rankings.scores", "float32 [40]", "float32 [20], one for each ranking"),
}
"""In an update: the kind, its method, what it returns, what the error says of that and of what it must be."""


def micro_batch() -> TokenContext:
    ctx, _ = context(setting(TREE, UPDATE), NAME, dtype=torch.float32)
    answers = len(ctx.batch.lengths)
    scores = torch.linspace(-1, 1, answers)
    link = Link(scores=scores, log_ratio=scores, beta=torch.full((answers,), 0.1))
    return replace(ctx, batch=replace(ctx.batch, advantages=torch.ones(len(ctx.logp)), loss_weights=torch.ones(len(ctx.logp))), link=link)


@pytest.mark.parametrize("case", LATE)
def test_what_an_update_is_made_of(case: str, tmp_path: Path):
    kind, method, returned, says, must = LATE[case]
    others = {
        "surrogate": ("def loss(self, log_rho, advantages, at): ...", "def effective_log_ratio(self, log_rho, at): return log_rho"),
        "preference": ("def losses(self, pairs): ...",),
        "likelihood": (),
    }
    rest = "".join(f"    {other}\n" for other in others[kind] if method.partition("(")[0] not in other.partition("(")[0])
    mine = written(tmp_path, f"class Mine:\n{rest}    def {method}:\n        return {returned}\n")
    algorithm = build(node({"name": HOLDERS[kind], kind: f"{mine}:Mine"})).algorithm
    ctx = micro_batch()

    def update() -> None:
        algorithm.effective_log_ratio(ctx)
        algorithm.loss(ctx, ctx.batch.advantages)

    assert refused(tmp_path, f"algorithm.{kind}", method, says, update).startswith(must)


PENALTIES = {
    "no penalty": ("ctx.logp", "tensor("),
    "value alone": ("Penalty(value=ctx.logp.detach())", "a Penalty of its value alone"),
    "sum": ("Penalty(value=ctx.logp.detach().sum(), loss=ctx.logp)", "float32 []"),
    "value": ("Penalty(value=ctx.logp, loss=ctx.logp)", "float32 [115] with a gradient"),
    "loss": ("Penalty(value=ctx.logp.detach(), loss=ctx.logp.sum())", "float32 [] with a gradient"),
    "reward": ("Penalty(value=ctx.logp.detach(), reward=ctx.logp)", "float32 [115] with a gradient"),
    "link": ("Penalty(value=ctx.logp.detach(), link=ctx.batch.lengths.float())", "a Penalty with `link` and no `log_ratio`"),
}


@pytest.mark.parametrize("case", PENALTIES)
def test_what_a_regularizer_takes(case: str, tmp_path: Path):
    returned, says = PENALTIES[case]
    method = "penalty(self, ctx, name)"
    mine = written(
        tmp_path,
        "from typing import Any\nfrom align.config.nodes import part\nfrom align.regularizers import Penalty\nclass Mine:\n"
        f"    coefficient: Any = part('coefficient', 1.0)\n    def {method}:\n        return {returned}\n",
    )
    recipe = build(node({"name": "grpo"}, regularizers={NAME: f"{mine}:Mine"}))
    refused(
        tmp_path, "regularizers.kl", method, says, lambda: training.total(recipe, micro_batch(), MetricAccumulator(), MetricAccumulator())
    )


CHARGES = {
    "no charge": ("None", "None"),
    "nan": ("RewardPenalty(discounted=batch.positions * float('nan'), direct=batch.positions.float())", "nan at 115 of 115"),
}


@pytest.mark.parametrize("case", CHARGES)
def test_what_a_regularizer_takes_from_rewards(case: str, tmp_path: Path):
    returned, says = CHARGES[case]
    method = "reward_penalty(self, batch, name)"
    mine = written(
        tmp_path,
        "from typing import Any\nfrom align.config.nodes import part\nfrom align.types import RewardPenalty\nclass Mine:\n"
        f"    coefficient: Any = part('coefficient', 1.0)\n    placement: str = 'reward'\n    def penalty(self, ctx, name): ...\n"
        f"    def {method}:\n        return {returned}\n",
    )
    recipe = build(node({"name": "ppo"}, regularizers={NAME: f"{mine}:Mine"}))
    batch = replace(context(setting(TREE, UPDATE), NAME, dtype=torch.float32)[0].batch, betas={NAME: 0.1})
    refused(tmp_path, "regularizers.kl", method, says, lambda: prepare_batch(recipe, batch))


def test_what_an_algorithm_loses(tmp_path: Path):
    method = "loss(self, ctx, advantages)"
    mine = written(
        tmp_path, f"from align.algorithms.grpo import Grpo\nclass Mine(Grpo):\n    def {method}:\n        return -ctx.logp.sum(), {{}}\n"
    )
    recipe = build(node({"name": f"{mine}:Mine"}))
    says = "float32 [] with a gradient"
    refused(tmp_path, "algorithm", method, says, lambda: training.total(recipe, micro_batch(), MetricAccumulator(), MetricAccumulator()))


RUNNING = {
    "critic": (
        "from align.critics import Critic, RunningCritic\nclass Mine(RunningCritic):\n    def trained(self): return iter(())\n",
        "values(self, micro, hidden)",
        "hidden",
        "float32 [",
    ),
    "reference": (
        "from align.references import Reference, RunningReference\nclass Mine(RunningReference):\n    def parameters(self): return {}\n",
        "hidden(self, micro)",
        "micro.lengths",
        "int64 [",
    ),
    "known": (
        "from align.references import Reference, RunningReference\nclass Mine(RunningReference):\n    def parameters(self): return {}\n",
        "known(self, micro)",
        "micro.positions",
        "int64 [",
    ),
    "reduction": ("class Mine:\n", "weights(self, lengths, max_tokens)", "lengths", "int64 ["),
}


@pytest.mark.parametrize("case", RUNNING)
def test_what_the_learner_is_given(case: str, tmp_path: Path):
    head, method, returned, says = RUNNING[case]
    kind = "reference" if case == "known" else case
    made = "" if kind == "reduction" else f"class Part({kind.title()}):\n    def start(self, policy):\n        return Mine("
    made += "" if not made else ")\n" if kind == "critic" else "policy)\n"
    mine = written(tmp_path, f"{head}    def {method}:\n        return {returned}\n{made}") + (":Part" if made else ":Mine")
    folder = str(tiny_model(tmp_path / "model"))
    algorithm = {"name": "ppo"} if kind == "critic" else {"name": "grpo"}
    if kind != "reference":
        algorithm[kind] = mine
    regularizers = {NAME: {"coefficient": 0.1, "reference": mine if kind == "reference" else "frozen"}}
    learner = Learner(build(node(algorithm, model={"path": folder}, regularizers=regularizers)), folder)
    batch = replace(pack(groups(), None), betas={NAME: 0.1})
    key = f"regularizers.kl.{kind}" if kind == "reference" else f"algorithm.{kind}"
    refused(tmp_path, key, method, says, lambda: learner.measure(learner.compute_logprobs(batch)))


# What a class lacks, and what a kit says

SOFT = "class Soft:\n    def loss(self, log_rho, advantages, at): ...\n"


def test_a_class_that_lacks_a_method_is_told_which(tmp_path: Path):
    mine = written(tmp_path, SOFT)
    with pytest.raises(UserError, match=r"mine\.py:Soft looks like a surrogate; lacks effective_log_ratio: define what it lacks"):
        kind_of(f"{mine}:Soft")
    with pytest.raises(RecipeError) as error:
        build(node({"name": "grpo", "surrogate": f"{mine}:Soft"}))
    assert str(error.value) == f"algorithm.surrogate: {mine}:1: Soft is no surrogate yet: it lacks effective_log_ratio(self, log_rho, at)"
    (finding,) = check("surrogate", f"{mine}:Soft")
    assert "is no surrogate yet: it lacks effective_log_ratio" in finding.found


def test_a_column_that_is_not_declared_is_one_cause(tmp_path: Path):
    """The message names the column and the remedy; the other checks refer to it."""
    head = "class Mine:\n    '''By the old policy.'''\n    def weights(self, batch, name):\n"
    mine = written(tmp_path, f"{head}        return batch.old_logp.exp()\n")
    first, *others = (f for f in check("weighting", f"{mine}:Mine") if not f.passed)
    assert f"{mine}:4: Mine reads batch.old_logp and does not declare it: declare needs" in first.found
    assert len(others) > 3 and {(f.found, f.mend) for f in others} == {(f"the same as above: {first.name}", "")}


def test_what_a_part_raises_has_its_line(tmp_path: Path):
    mine = written(tmp_path, "class Mine:\n    '''Nothing.'''\n    def weights(self, batch, name):\n        return [][3]\n")
    first = next(f for f in check("weighting", f"{mine}:Mine") if not f.passed)
    assert first.found == f"{mine}:4: IndexError: list index out of range"
