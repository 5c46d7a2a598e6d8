"""The window of the last policies against its members by transformers alone, and against the weights of StaQ."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model
from torch import Tensor
from unit.references.learners import batch, logp_of, make, reference_logp, sampled

from align.core.logprobs import exact_divergence
from align.divergences.reverse_kl import ReverseKl
from align.errors import UserError

DECAY = 0.5


def members(learner, steps: int) -> list[torch.nn.Module]:
    """The initial policy and that after each step, newest first."""
    found = [copy.deepcopy(learner.policy.module)]
    for step in range(steps):
        learner.update(batch(learner, step), step)
        found.insert(0, copy.deepcopy(learner.policy.module))
    return found


def mean(tables: list[Tensor], decay: float) -> Tensor:
    weights = torch.tensor([decay**i for i in range(len(tables))])
    return torch.log_softmax((weights[:, None, None] * torch.stack(tables)).sum(0) / weights.sum(), -1)


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("steps", [1, 3])
def test_it_is_the_normalised_mean_of_the_last_log_probs(folder: Path, lora: int, steps: int):
    learner = make(folder, {"name": "window", "last": 3, "every": 1, "decay": DECAY}, lora=lora, minibatches=1)
    policies = members(learner, steps)
    scored = batch(learner, steps)
    tables = [logp_of(policy, scored, rows=26) for policy in policies[:3]]
    torch.testing.assert_close(reference_logp(learner, scored), sampled(mean(tables, DECAY), scored), rtol=0, atol=2e-5)


def test_its_kl_is_the_mean_of_the_kls_to_its_members_up_to_a_constant():
    generator = torch.Generator().manual_seed(0)
    first, second, *past = (torch.log_softmax(torch.randn(1, 5, generator=generator).double(), -1) for _ in range(5))
    window = mean(past, DECAY)
    weights = torch.tensor([1, DECAY, DECAY**2], dtype=torch.float64)
    differences = [
        exact_divergence(ReverseKl(), pi, window)
        - sum(w * exact_divergence(ReverseKl(), pi, p) for w, p in zip(weights, past, strict=True)) / weights.sum()
        for pi in (first, second)
    ]
    torch.testing.assert_close(*differences, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decay", [0.3, 0.95])
def test_row_48_its_weights_are_those_of_staq(decay: float, folder: Path):
    """(1 - b) b^i/(1 - b^M), which add up to 1."""
    learner = make(folder, {"name": "window", "last": 3, "every": 1, "decay": decay}, minibatches=1)
    members(learner, 3)
    reference = learner.references["kl"]
    parts = reference.head().weight.split(learner.policy.head().weight.shape[1], -1)
    own = [learner.policy.head(slot).weight for slot in reference._slots]
    found = [(reference.head().scale * part / weight).mean().item() for part, weight in zip(parts, own, strict=True)]
    assert found == pytest.approx([(1 - decay) * decay**i / (1 - decay**3) for i in range(3)], rel=1e-5) and sum(found) == pytest.approx(1)


def test_a_model_with_capped_logits_is_refused(tmp_path: Path):
    tiny_model(tmp_path / "initial", kind="gemma2")
    with pytest.raises(UserError, match="this model caps its logits"):
        make(tmp_path, "window")
