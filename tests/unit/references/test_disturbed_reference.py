"""Consistency between two contexts: values, and gradients of one branch or both, by transformers and autograd alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM
from unit.dpo import pairs as dpo

from align.config import recipes
from align.divergences._mirrored import Mirrored
from align.divergences.jeffreys import Jeffreys
from align.divergences.reverse_kl import ReverseKl
from align.errors import RecipeError
from align.experience.disturbed_prompts import drawn, without
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.types import TokenBatch

SHARE = 0.4


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), tied=False)


def node(folder: Path, divergence: str = "reverse_kl", *, micro_tokens: int | None = None, mask_id: int | None = None, **keys) -> dict:
    regularizer = {
        "divergence": divergence,
        "estimator": "exact",
        "coefficient": 1.0,
        "reference": {"name": "disturbed", "share": SHARE, "mask_id": mask_id, "gradient": keys.pop("gradient", "both")},
    }
    return dpo.node(folder) | {
        "algorithm": {"name": "sft", "likelihood_weight": 0.0},
        "task": {"name": "countdown", "size": 8, "demonstrations": True},
        "batch": {"prompts": 4, "micro_tokens": micro_tokens},
        "optimizer": {"lr": 1e-2, "max_grad_norm": float("inf")},
        "regularizers": {"same": regularizer | keys},
    }


def batch() -> TokenBatch:
    return replace(pack(dpo.pairs(seed=5, count=5, answers=1), None), betas={"same": 1.0}, step=3)


def table(policy: torch.nn.Module, of: TokenBatch) -> Tensor:
    parts = []
    for ids, start, n in zip(of.input_ids, of.first_columns.tolist(), of.lengths.tolist(), strict=True):
        parts.append(torch.log_softmax(policy(ids[None, : start + n]).logits[0, start - 1 : start + n - 1] / 0.7, -1))
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("divergence", "gradient", "mask_id", "micro_tokens"),
    [("reverse_kl", "both", None, None), ("jeffreys", "both", 4, 12), ("reverse_kl", "policy", None, 12)],
)
def test_value_and_gradient(model: Path, divergence: str, gradient: str, mask_id: int | None, micro_tokens: int | None):
    learner = Learner(recipes.build(node(model, divergence, gradient=gradient, mask_id=mask_id, micro_tokens=micro_tokens)), str(model))
    scored = prepare_batch(learner.recipe, learner.compute_logprobs(batch()))
    found, stats = dpo.gradient(learner, scored)
    policy, hit = AutoModelForCausalLM.from_pretrained(model), drawn(batch(), SHARE, 0)
    assert hit.any()
    p, q = table(policy, batch()), table(policy, without(batch(), hit, mask_id))
    q = q if gradient == "both" else q.detach()
    each = p.exp() * (p - q) if divergence == "reverse_kl" else (p.exp() - q.exp()) * (p - q)
    loss = each.sum(-1).mean()
    loss.backward()
    assert stats["loss/reg/same"].mean == pytest.approx(loss.item(), rel=1e-4)
    largest = max(p.grad.abs().max() for p in policy.parameters())
    for name, p in policy.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=2e-4 * largest.item())


def test_the_draw_does_not_depend_on_the_split_of_the_batch():
    whole = batch()
    part = whole.select(torch.tensor([1, 3]))
    assert torch.equal(drawn(part, SHARE, 0), drawn(whole, SHARE, 0)[[1, 3], : part.input_ids.shape[1]])
    assert not torch.equal(drawn(replace(whole, step=4), SHARE, 0), drawn(whole, SHARE, 0))


def test_the_answers_and_the_last_prompt_token_stay():
    whole = batch()
    other = without(whole, drawn(whole, 0.99, 0), None)
    assert torch.equal(other.tokens, whole.tokens)
    assert (other.first_columns == 1).sum() >= 3


@pytest.mark.parametrize("divergence", [ReverseKl(), Jeffreys()])
def test_the_mirror_image_is_the_divergence_with_its_arguments_swapped(divergence):
    p, q = (torch.softmax(torch.randn(7, generator=torch.Generator().manual_seed(s), dtype=torch.float64), 0) for s in (1, 2))
    one, other = (q * divergence.f((p / q).log())).sum(), (p * Mirrored(divergence).f((q / p).log())).sum()
    assert one.item() == pytest.approx(other.item(), abs=1e-14)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"estimator": "sampled"}, "use estimator: exact, placement: loss and credit: local"),
        ({"divergence": "renyi"}, "needs an f-divergence"),
    ],
)
def test_what_both_branches_do_not_allow(keys: dict, says: str, model: Path):
    with pytest.raises(RecipeError, match=says) as error:
        recipes.build(node(model, **keys))
    assert error.value.where == "regularizers.same.reference"
