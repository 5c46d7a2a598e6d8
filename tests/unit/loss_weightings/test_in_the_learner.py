"""Loss weightings in the learner: the weights of an update are of all its examples on any split, and the state follows their losses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM
from unit.dpo import pairs as dpo

from align.config import recipes
from align.errors import RecipeError, UserError
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.inspect.explain import explain
from align.learner.learner import Learner
from align.run.state import RunState
from align.types import Stat, TokenBatch


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), tied=False)


def sft(folder: Path, weighting: str | dict, **batch) -> Learner:
    node = dpo.node(folder, algorithm={"name": "sft", "reduction": "sequence_sum", "loss_weighting": weighting})
    node |= {"task": {"name": "countdown", "size": 8, "demonstrations": True}, "batch": {"prompts": 4} | batch, "regularizers": {}}
    return Learner(recipes.build(node), str(folder))


def demonstrations() -> TokenBatch:
    return pack(dpo.pairs(seed=3, count=6, answers=1), None)


def updated(learner: Learner, batch: TokenBatch, state: RunState | None = None) -> tuple[dict[str, Tensor], dict[str, Stat]]:
    state = state or RunState(learner.recipe)
    scored = learner.compute_logprobs(replace(batch, betas=state.betas(0)))
    return dpo.gradient(learner, prepare_batch(learner.recipe, scored, state.coefficients, state.loss_weighting))


def own_losses(folder: Path, batch: TokenBatch) -> tuple[torch.nn.Module, Tensor]:
    """-log pi of each answer at the recipe's temperature, by transformers alone, differentiable."""
    policy, found = AutoModelForCausalLM.from_pretrained(folder), []
    for ids, start, n in zip(batch.input_ids, batch.first_columns.tolist(), batch.lengths.tolist(), strict=True):
        logp = torch.log_softmax(policy(ids[None, : start + n]).logits[0, start - 1 : start + n - 1] / 0.7, -1)
        found.append(-logp.gather(1, ids[start : start + n, None]).sum())
    return policy, torch.stack(found)


@pytest.mark.parametrize("micro_tokens", [None, 12], ids=["one micro-batch", "several"])
def test_kl_dro_of_demonstrations_is_its_objective(model: Path, micro_tokens: int | None):
    batch = demonstrations()
    found, stats = updated(sft(model, {"name": "kl_dro", "temperature": 4.0}, micro_tokens=micro_tokens), batch)
    policy, losses = own_losses(model, batch)
    (4.0 * torch.logsumexp(losses / 4.0, 0)).backward()
    wanted = {name: p.grad for name, p in policy.named_parameters()}
    scale = torch.nn.utils.get_total_norm(wanted.values())
    wanted = {name: grad * (1.0 / scale).clamp_max(1.0) for name, grad in wanted.items()}  # max_grad_norm
    assert all(torch.allclose(grad, wanted[name], atol=2e-5) for name, grad in found.items())
    assert stats["loss/example"].mean == pytest.approx(losses.mean().item(), rel=1e-4)
    weights = 6 * torch.softmax(losses.detach() / 4.0, 0)
    assert stats["loss/policy"].mean == pytest.approx((weights * losses).mean().item(), rel=1e-4)


def test_a_pair_weighs_by_its_own_loss(model: Path):
    """Under dpo both answers of a pair have the pair's loss, so a pair is an example."""
    learner = dpo.moved(dpo.make(model, algorithm={"name": "dpo", "loss_weighting": {"name": "kl_dro", "temperature": 0.2}}))
    scored = dpo.batch(learner)
    _, stats = dpo.gradient(learner, scored)
    plain = dpo.moved(dpo.make(model))
    losses = torch.tensor([plain.measure(dpo_pair(plain, g))["loss/policy"].mean for g in range(4)], dtype=torch.float64)
    weights = 4 * torch.softmax(losses / 0.2, 0)
    assert stats["loss/policy"].mean == pytest.approx((weights * losses).mean().item(), rel=1e-3)
    assert stats["loss_weighting/share"].mean == 1.0


def dpo_pair(learner: Learner, group: int) -> TokenBatch:
    batch = dpo.batch(learner)
    return replace(batch.select((batch.group_ids == group).nonzero().squeeze(-1)), group_ids=torch.zeros(2, dtype=torch.int64))


def test_feasible_learning_follows_the_losses_and_survives_a_checkpoint(model: Path):
    learner = sft(model, {"name": "feasible", "tolerance": 2.0})
    batch, state = demonstrations(), RunState(learner.recipe)
    _, stats = updated(learner, batch, state)
    state.control(batch, stats)
    losses = own_losses(model, batch)[1].detach()
    wanted = {name: max(1 + loss - 2.0 - 0.5, 0.0) for name, loss in zip(batch.prompt_ids, losses.tolist(), strict=True)}
    assert state.loss_weighting["multipliers"] == pytest.approx(wanted, rel=1e-4)
    resumed = RunState(learner.recipe)
    resumed.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert resumed.loss_weighting == state.loss_weighting
    _, weighed = updated(sft(model, {"name": "feasible", "tolerance": 2.0}), batch, resumed)
    expected = (torch.tensor([wanted[name] for name in batch.prompt_ids]) * losses).mean()
    assert weighed["loss/policy"].mean == pytest.approx(expected.item(), rel=1e-4)


def test_one_weight_is_no_weighting(model: Path):
    """The weights of equal examples are 1, and regularizers are not weighed."""
    batch = demonstrations().select(torch.tensor([0]))
    one, other = (updated(sft(model, weighting), batch)[0] for weighting in (None, {"name": "cvar", "fraction": 0.3}))
    assert all(torch.allclose(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("algorithm", "says"),
    [
        ({"name": "grpo", "loss_weighting": "kl_dro"}, "weighs examples by their losses, and the loss of a rollout measures nothing"),
        ({"name": "dpo", "loss_weighting": "top_entropy"}, "tells tokens apart, and dpo has one loss for a whole ranking"),
    ],
    ids=["grpo", "dpo"],
)
def test_weightings_that_have_no_meaning_are_refused(model: Path, algorithm: dict, says: str):
    node = dpo.node(model, algorithm=algorithm)
    if algorithm["name"] == "grpo":
        node |= {"task": "countdown", "reward": "countdown_exact", "regularizers": {}}
    with pytest.raises(RecipeError, match=says) as error:
        recipes.build(node)
    assert error.value.where == "algorithm.loss_weighting"


def test_explain_shows_the_weight_in_the_objective(model: Path):
    text = explain(sft(model, {"name": "kl_dro", "temperature": 2.0}).recipe)
    assert "J = E Σ_t w_t [ v (log π) ]" in text and "S exp(l/2) / Σ exp(l/2)" in text


def test_a_weighting_of_the_wrong_shape_stops_the_run(model: Path, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    '''Of the first only.'''\n    def of_losses(self, losses):\n        return losses[:1] * 0 + 1\n"
    )
    learner = sft(model, f"{tmp_path}/mine.py:Mine")
    with pytest.raises(UserError, match=r"algorithm\.loss_weighting: .*of_losses returned float32 \[1\], must be float32 \[6\]"):
        updated(learner, demonstrations())
