"""On-policy distillation: the regularizers alone, without a reward; the reverse KL of whole answers; and the teacher is learned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden.methods_table.toys import close, regularizer
from helpers.bandit_run import node as bandit
from helpers.enumeration import NAME, Problem, gradient
from helpers.models import tiny_model
from helpers.rollouts import groups
from unit.learner.small import capture_gradient, make, moved, node

from align.config import recipes
from align.divergences.reverse_kl import ReverseKl
from align.errors import RecipeError
from align.estimators.exact import Exact
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.run.state import RunState
from align.telemetry import plots
from align.train import train


def kd(teacher: Path, **keys: object) -> dict:
    return {"kd": {"estimator": "exact", "reference": {"name": "teacher", "path": str(teacher)}, "coefficient": 1.0} | keys}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The student and the teacher."""
    folder = tmp_path_factory.mktemp("distill")
    return tiny_model(folder / "student"), tiny_model(folder / "teacher", seed=1)


@pytest.mark.parametrize("keys", [{"divergence": "generalised_jsd"}, {"credit": "summed"}], ids=["gkd", "minillm"])
def test_it_is_a_policy_gradient_whose_rewards_are_all_equal(models: tuple[Path, Path], keys: dict):
    """An equal advantage of 0 leaves the regularizer: the same gradient, bit for bit, with no reward named."""
    student, teacher = models
    plain = make(student, algorithm="distill", reward=None, regularizers=kd(teacher, **keys))
    equal = make(student, algorithm={"name": "grpo", "surrogate": "reinforce"}, regularizers=kd(teacher, **keys))
    found = []
    for learner, rewarded in ((plain, False), (equal, True)):
        batch = replace(pack(groups(), None), betas=RunState(learner.recipe).betas(0))
        batch = replace(batch, rewards=torch.ones(len(batch.lengths))) if rewarded else batch
        found.append(capture_gradient(moved(learner), prepare_batch(learner.recipe, learner.compute_logprobs(batch))))
    assert found[0].keys() == found[1].keys() and max(g.abs().max() for g in found[0].values()) > 1e-3
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("seed", range(3))
def test_the_single_step_decomposition_is_the_gradient_of_the_kl_of_answers(seed: int):
    """MiniLLM: the exact KL of a step plus the score times the exact KLs of what follows, against autograd of KL(pi(y)||teacher(y))."""
    problem = Problem(3, depth=3, end=2)
    logits, teacher = problem.random(seed), problem.random(seed + 10)
    leaf = logits.clone().requires_grad_()
    ctx = problem.context(leaf, None, teacher, ReverseKl())
    penalty = regularizer(ReverseKl(), Exact(), credit="summed").penalty(ctx, NAME)
    (found,) = torch.autograd.grad((ctx.batch.loss_weights * penalty.loss).sum(), leaf)

    def kl_of_answers(at: torch.Tensor) -> torch.Tensor:
        logp = problem.answer_logp(at)
        return (logp.exp() * (logp - problem.answer_logp(teacher))).sum()

    close(found, gradient(kl_of_answers, logits), 12)
    close((ctx.batch.loss_weights * penalty.value).sum(), kl_of_answers(logits), 12)


def test_the_student_becomes_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One prompt, answers of one token: the divergence falls to a twentieth, and no reward is called."""
    monkeypatch.setattr(plots, "draw", lambda metrics, picture: picture)
    student, teacher = tiny_model(tmp_path / "start"), tiny_model(tmp_path / "teacher", seed=1)
    made = bandit(student, steps=20, reward=None, algorithm="distill", regularizers=kd(teacher), batch={"prompts": 1, "samples": 8})
    train(recipes.build(made | {"optimizer": {"lr": 2e-2}}), tmp_path / "run")
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["divergence/kd"] < 0.05 * steps[0]["divergence/kd"]
    assert not [name for name in steps[0] if name.startswith(("reward/", "time/reward", "groups/"))]


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ({"reward": "countdown_exact"}, "reward", "changes nothing: distill learns from its regularizers alone; delete the key"),
        ({"reward_limits": {"seconds": 1.0}}, "reward_limits.seconds", "distill learns from its regularizers alone"),
        ({"regularizers": {}}, "algorithm", "has no loss of its own, so it needs a regularizer with placement: loss"),
        ({"regularizers": kd(Path("t"), coefficient=0.0)}, "algorithm", "a coefficient that is not always 0"),
        ({"regularizers": {"kl": {"coefficient": 0.1, "placement": "reward"}}}, "", "placement"),
        ({"regularizers": kd(Path("t"), weighting="difficulty")}, "regularizers.kd.weighting", "looks at rewards"),
        ({"shapings": {"stcr": "length_complexity"}}, "shapings.stcr", "looks at rewards"),
        ({"algorithm": {"name": "distill", "minibatches": 3}}, "batch.prompts", "do not divide into 3 minibatches"),
        ({"algorithm": {"name": "distill", "epochs": 0}}, "algorithm", "epochs must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_key(changes: dict, where: str, says: str):
    made = node(Path("nowhere"), algorithm="distill", reward=None, regularizers=kd(Path("teacher")))
    with pytest.raises(RecipeError) as refused:
        recipes.build(made | changes)
    assert refused.value.where.startswith(where) and says in str(refused.value)


def test_a_coefficient_may_begin_at_0(tmp_path: Path):
    rising = {"name": "linear", "start": 0.0, "end": 0.1, "steps": 1}
    made = bandit(tiny_model(tmp_path / "start"), steps=2, reward=None, algorithm="distill", regularizers={"kl": {"coefficient": rising}})
    assert train(recipes.build(made), tmp_path / "run")["steps"] == 2


def test_an_algorithm_with_advantages_still_needs_a_reward():
    with pytest.raises(RecipeError, match="grpo learns from rewards: name one"):
        recipes.build(node(Path("nowhere"), reward=None))
