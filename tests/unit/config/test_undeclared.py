"""A part that reads a column it has not declared: an error with its key, its line and what to declare, wherever it reads it."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import tiny_model
from helpers.rollouts import groups

from align.config import recipes
from align.config.nodes import build_part
from align.config.schema import Recipe
from align.errors import RecipeError
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.oracle.enumeration import TREE, UPDATE, context, setting
from align.run.state import RunState
from align.types import EARLY, Columns, Stat, TokenBatch

READS = {
    "rewards": "batch.rewards[batch.seq_ids]",
    "old_logp": "batch.old_logp",
    "values": "batch.values",
    "ref_logp": "batch.ref_logp['kl']",
}
"""Each [T]."""
PARTS = {
    "weighting": ("regularizers.kl.weighting", "def weights(self, batch, name):", "(READ).exp()"),
    "coefficient": (
        "regularizers.kl.coefficient",
        "def beta(self, step, state): return 1\n    def multipliers(self, batch, name, state):",
        "(READ).exp()[:len(batch.lengths)]",
    ),
    "rewards": ("shapings.mine", "def rewards(self, batch, rewards):", "rewards + (READ).mean()"),
    "shaping": ("shapings.mine", "def advantages(self, batch, advantages, name):", "advantages * (READ)"),
    "metrics": ("shapings.mine", "def metrics(self, batch, name):", "{'mean': (READ).mean().item()}"),
    "advantage": ("algorithm.advantage", "def advantages(self, batch):", "READ"),
    "algorithm": ("algorithm", "def advantages(self, batch):", "READ"),
    "measures": ("algorithm", "def measures(self, batch):", "{'mean': (READ).mean().item()}"),
}
"""What reads, by the method or the room: its key, its class up to the reading, and what it returns."""

ALLOWED = {("algorithm", "rewards"), ("measures", "rewards")}
"""What the parts of an algorithm declare, it may read too."""


@pytest.fixture(scope="module")
def batch() -> TokenBatch:
    """One that has every column."""
    whole = context(setting(TREE, UPDATE), "kl", dtype=torch.float32)[0].batch
    tokens = len(whole.seq_ids)
    full = replace(whole, values=torch.full((tokens,), 0.2), entropy=torch.ones(tokens), betas={"kl": 0.1}, old_logp=whole.ref_logp["kl"])
    assert not [name for name in EARLY - {"advantages"} if getattr(full, name) is None]
    return full


def built(folder: Path, what: str, column: str, declared: bool) -> Recipe:
    key, head, returned = PARTS[what]
    base = "from align.algorithms.grpo import Grpo\n" if key == "algorithm" else ""
    needs = {"rewards", column} if declared else {"entropy"}
    file = folder / "mine.py"
    file.write_text(
        f"{base}class Mine{'(Grpo)' if base else ''}:\n    needs = frozenset({sorted(needs)!r})\n    {head}\n"
        f"        column = 1 * {READS[column]}\n        return {returned.replace('READ', 'column')}\n"
    )
    node = {"steps": 3, "task": "countdown", "reward": "countdown_wordy", "model": {"path": "x"}, "batch": {"prompts": 4, "samples": 2}}
    mine = f"{file}:Mine"
    # A critic makes values a column there is; of a penalty in the loss, whose weighting and coefficient see all of them.
    node["algorithm"] = mine if key == "algorithm" else {"name": "ppo", "advantage": mine if key.endswith(".advantage") else "gae"}
    node["regularizers"] = {"kl": {"coefficient": mine if key.endswith("coefficient") else 0.1, "reference": "frozen"}}
    if key.endswith("weighting"):
        node["regularizers"]["kl"]["weighting"] = mine
    if key.startswith("shapings"):
        node["shapings"] = {"mine": mine}
    return recipes.build(node)


@pytest.mark.parametrize(("what", "column"), [(w, c) for w, c in product(PARTS, READS) if (w, c) not in ALLOWED])
def test_a_column_that_is_not_declared_is_refused_by_name_and_line(what: str, column: str, batch: TokenBatch, tmp_path: Path):
    mine = built(tmp_path, what, column, declared=False)
    lines = (tmp_path / "mine.py").read_text().splitlines()
    with pytest.raises(RecipeError) as refused:
        prepare_batch(mine, batch)
    assert refused.value.where == PARTS[what][0]
    place, says = refused.value.problem.split(": ", 1)
    file, _, line = place.rpartition(":")
    assert (file, lines[int(line) - 1].strip()) == (f"{tmp_path}/mine.py", f"column = 1 * {READS[column]}")
    assert says.startswith(f"Mine reads batch.{column} and does not declare it: declare needs = frozenset({{")
    assert {repr(column), "'entropy'"} <= set(says.partition("({")[2].removesuffix("})").split(", "))


@pytest.mark.parametrize("column", READS)
@pytest.mark.parametrize("what", PARTS)
def test_a_column_that_is_declared_is_read(what: str, column: str, batch: TokenBatch, tmp_path: Path):
    prepare_batch(built(tmp_path, what, column, declared=True), batch)


def test_what_a_coefficient_follows_is_declared_too(batch: TokenBatch, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    def beta(self, step, state): return 0.1\n"
        "    def update_batch(self, state, batch, name):\n        return {'x': float(batch.rewards[0])}\n"
    )
    node = {
        "steps": 3,
        "task": "countdown",
        "reward": "countdown_wordy",
        "model": {"path": "x"},
        "batch": {"prompts": 4, "samples": 2},
        "algorithm": "grpo",
        "regularizers": {"kl": {"coefficient": f"{tmp_path}/mine.py:Mine"}},
    }
    with pytest.raises(RecipeError, match=r"^regularizers\.kl\.coefficient: .*mine\.py:4: Mine reads batch\.rewards .*\{'rewards'\}"):
        RunState(recipes.build(node)).control(batch, {"divergence/kl": Stat(sum=1.0, count=1.0)})


def test_a_likelihood_that_reads_rewards(tmp_path: Path):
    (tmp_path / "mine.py").write_text("class Mine:\n    def losses(self, ctx):\n        return ctx.old_logp * ctx.batch.rewards\n")
    ctx = context(setting(TREE, UPDATE), "kl", dtype=torch.float32)[0]
    sft = build_part("algorithm", {"name": "sft", "likelihood": f"{tmp_path}/mine.py:Mine"}, "algorithm")
    with pytest.raises(RecipeError, match=r"^algorithm\.likelihood: .*mine\.py:3: Mine reads batch\.rewards and does not declare it"):
        sft.loss(ctx, None)


CRITIC = """
from align.critics import Critic
from align.critics.shared import Shared

class Mine(Critic):
    def start(self, policy):
        return Running(Shared().start(policy))

class Running(RunningCritic):
    def __init__(self, inner):
        self.inner = inner
    def trained(self):
        return self.inner.trained()
    def values(self, micro, hidden):
        return self.inner.values(micro, hidden) + micro.rewards[micro.seq_ids]
"""


def test_a_critic_sees_the_tokens_alone(tmp_path: Path):
    (tmp_path / "mine.py").write_text(CRITIC.replace("import Critic\n", "import Critic, RunningCritic\n"))
    folder = tiny_model(tmp_path / "model")
    node = {
        "steps": 3,
        "task": "countdown",
        "reward": "countdown_wordy",
        "model": {"path": str(folder)},
        "batch": {"prompts": 4, "samples": 3},
        "algorithm": {"name": "ppo", "critic": f"{tmp_path}/mine.py:Mine"},
    }
    learner = Learner(recipes.build(node), str(folder))
    with pytest.raises(RecipeError, match=r"^algorithm\.critic: .*mine\.py:15: Running reads batch\.rewards .*: a part of this kind gets"):
        learner.compute_logprobs(pack(groups(), None))


USES = {
    "minus": lambda x: torch.ones(3) - x,
    "minus of it": lambda x: x - torch.ones(3),
    "torch": lambda x: torch.exp(x),
    "in a list": lambda x: torch.cat([torch.ones(3), x]),
    "by name": lambda x: torch.where(torch.ones(3) > 0, input=torch.ones(3), other=x),
    "truth": bool,
    "length": len,
    "loop": list,
    "entry": lambda x: x["kl"],
    "mean": lambda x: x.mean(),
    "number": float,
    "equal": lambda x: x == 1,
    "larger": lambda x: x > 0,
    "numpy": np.mean,
    "math": math.exp,
    "get": lambda x: x.get("kl"),
    "inside": lambda x: "kl" in x,
}


@pytest.mark.parametrize("use", USES)
def test_whatever_is_done_with_it_is_refused(use: str, batch: TokenBatch):
    shown = batch.only(frozenset({"old_logp"}), batch, "here")
    with pytest.raises(RecipeError, match=r"^here: .*: TokenBatch reads batch\.rewards and .*frozenset\(\{'old_logp', 'rewards'\}\)$"):
        USES[use](shown.rewards)


def test_a_batch_with_hidden_columns_is_a_batch(batch: TokenBatch):
    """Other prompts are made of one: it is selected, moved, replaced and copied."""
    shown = batch.only(frozenset({"old_logp"}), batch, "here")
    half = replace(copy.copy(pickle.loads(pickle.dumps(shown))), step=3).select(torch.tensor([0, 2])).to(torch.device("cpu"))
    assert isinstance(half, Columns) and len(half.lengths) == 2 and "rewards, which is not declared" in repr(half)
    assert half.old_logp.equal(batch.select(torch.tensor([0, 2])).old_logp)
    with pytest.raises(RecipeError, match=r"reads batch\.ref_logp"):
        half.ref_logp["kl"]


def test_each_column_that_can_be_declared_is_there_for_a_type_checker():
    optional = {f.name for f in fields(TokenBatch) if f.name in EARLY and "None" in str(f.type)}
    assert inspect.get_annotations(Columns) == dict.fromkeys(optional, "Tensor")
