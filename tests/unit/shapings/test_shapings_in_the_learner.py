"""Shapings in the learner: the other context's forward pass, what costs one, and what they leave to the penalty."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM
from unit.shapings.batches import node

from align.config import recipes, registry
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.types import Episode, Group, Prompt, Rewards, TokenBatch


def learner(folder: Path, shapings: dict, **changes) -> Learner:
    return Learner(recipes.build(node(shapings, model={"path": str(folder)}, **changes)), str(folder))


def drawn() -> list[Group]:
    rng = np.random.default_rng(0)
    return [
        Group(
            prompt=Prompt(id=str(g), text="", token_ids=tuple(rng.integers(3, 26, 5 + g).tolist())),
            episodes=tuple(
                Episode.single_turn(rng.integers(2, 26, 2 + i).astype(np.int32), "", -rng.random(2 + i).astype(np.float32))
                for i in range(2)
            ),
        )
        for g in range(2)
    ]


def scored(of: Learner, step: int = 0) -> TokenBatch:
    rewards = Rewards(values=np.array([1.0, 0.0, 0.0, 0.5], dtype=np.float32))
    betas = {name: 0.1 for name in of.recipe.regularizers}
    return of.compute_logprobs(replace(pack(drawn(), rewards), step=step, betas=betas))


def test_the_divergence_between_contexts_is_that_of_two_forward_passes(tmp_path: Path):
    folder = tiny_model(tmp_path)
    uncertain = {"name": "uncertainty_bonus", "steps": 3, "share": 0.6}
    worker = learner(
        folder,
        {"v": uncertain, "masked": uncertain | {"mask_id": 4, "seed": 2}},
        sampling={"max_tokens": 4, "temperature": 0.8},
        regularizers={"v": {"coefficient": 0.1, "estimator": "exact"}},
    )
    done, model = scored(worker), AutoModelForCausalLM.from_pretrained(folder)
    plain = pack(drawn(), None)

    def table(of: TokenBatch) -> Tensor:
        parts = []
        for ids, start, n in zip(of.input_ids, of.first_columns.tolist(), of.lengths.tolist(), strict=True):
            with torch.no_grad():
                parts.append(torch.log_softmax(model(ids[None, : start + n]).logits[0, start - 1 : start + n - 1].double() / 0.8, -1))
        return torch.cat(parts)

    p = table(plain)
    for name in ("v", "masked"):
        other = worker.recipe.shapings[name].other_context(plain)
        q = table(other)
        expected = ((p.exp() - q.exp()) * (p - q)).sum(-1)
        assert expected.max() > 0.1
        torch.testing.assert_close(done.contexts[name].double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(done.entropy.double(), -(p.exp() * p).sum(-1), rtol=1e-4, atol=1e-5)
    assert prepare_batch(worker.recipe, done).shaped["shaping/v/divergence"] == pytest.approx(done.contexts["v"].mean().item() / 2)
    late = scored(worker, step=3)
    assert late.contexts == {} and prepare_batch(worker.recipe, late).shaped["shaping/v/divergence"] == 0.0
    part = done.select(torch.tensor([1, 3]))
    assert torch.equal(part.contexts["v"], done.contexts["v"][(done.seq_ids == 1) | (done.seq_ids == 3)])


def test_a_shaping_of_ones_own_may_ask_for_another_context(tmp_path: Path):
    folder, file = tiny_model(tmp_path / "model"), tmp_path / "own.py"
    file.write_text("""
from dataclasses import replace
from align.divergences.reverse_kl import ReverseKl

class Moved:
    context_divergence = ReverseKl()

    def other_context(self, batch):
        ids = batch.input_ids.clone()
        ids[:, 0] = 3
        return replace(batch, input_ids=ids)

    def advantages(self, batch, advantages, name):
        return advantages + batch.contexts[name]
""")
    worker = learner(folder, {"x": f"{file}:Moved"})
    done = scored(worker)
    assert (done.contexts["x"] > 0).all()
    plain = prepare_batch(learner(folder, {}).recipe, done).advantages
    assert torch.equal(prepare_batch(worker.recipe, done).advantages, plain + done.contexts["x"])


def test_only_what_asks_for_the_policy_costs_a_forward_pass(tmp_path: Path):
    folder = tiny_model(tmp_path)
    of_rewards = ("overlong", "length_complexity", "win_rate", "worst_case_rewards")
    required = {"overlong": {"limit": 4, "buffer": 2}, "uncertainty_bonus": {"steps": 3}, "off_policy_mask": {"threshold": 0.1}}
    for name in registry.shipped("shaping"):
        done = scored(learner(folder, {"x": {"name": name} | required.get(name, {})}))
        assert (done.old_logp is None) == (name in of_rewards) == (done.entropy is None)


def test_a_weight_on_the_policy_term_is_none_on_a_penalty(tmp_path: Path):
    """Masking every token of the policy term leaves the gradient that rewards without differences have: the penalty's own."""
    folder = tiny_model(tmp_path)
    penalty = {"kl": {"coefficient": 0.1, "placement": "reward", "divergence": "forward_kl"}}
    gradients = []
    for shapings in ({"x": {"name": "importance", "beyond_cap": "mask", "cap": 1.01}}, {}):
        worker = learner(folder, shapings, regularizers=penalty, max_engine_gap=1e9, algorithm={"name": "grpo", "epochs": 2})
        for _, p in worker.policy.trained():
            p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        worker.version, done, seen = 1, scored(worker), []
        done = replace(done, **({"sampler_logp": done.old_logp - 0.1} if shapings else {"rewards": torch.zeros(4)}))
        worker.optimizer.step = lambda seen=seen, worker=worker: seen.append([p.grad.clone() for _, p in worker.policy.trained()])
        worker.update(prepare_batch(worker.recipe, done), 0)
        gradients.append(seen[0])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert max(g.abs().max() for g in gradients[0]) > 1e-3
