"""Caps, clamps, merged outcomes and bias, from the recipe through the learner to the metrics and the summary of a run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model
from unit.learner.small import batch, capture_gradient, make, node

from align.config import recipes
from align.learner.learner import Learner
from align.train import train
from align.types import TokenBatch

TWICE = {"name": "grpo", "epochs": 2}
"""Off-policy, so the learner keeps pi_old."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("qwen2"), kind="qwen2", tied=True)


def moved(learner: Learner) -> TokenBatch:
    """A batch of a policy that has left its reference, the engine's log-probs 0.3 nats off on every other token."""
    learner.version = 1
    for _, p in learner.policy.trained():
        p.data += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    scored = batch(learner)
    odd = torch.arange(len(scored.old_logp)) % 2
    return replace(scored, sampler_logp=scored.old_logp - 0.3 * odd)


def test_what_was_cut_is_counted_by_name(model: Path):
    """Two tokens 30 nats from the reference, every other one weighed by e^0.3 above the cap of 1.2."""
    learner = make(
        model,
        algorithm=TWICE,
        max_engine_gap=1.0,
        regularizers={
            "far": {"coefficient": 0.1},
            "tied": {"coefficient": 0.1, "ratio_to": "sampler", "ratio_cap": 1.2},
            "merged": {"coefficient": 0.1, "estimator": {"name": "top_k", "k": 3}},
            "whole": {"coefficient": 0.1, "estimator": "exact"},
        },
    )
    scored = moved(learner)
    far = scored.ref_logp["far"].clone()
    far[:2] -= 30.0
    scored = replace(scored, ref_logp=scored.ref_logp | {"far": far})
    learner.optimizer.step = lambda: None
    stats = learner.update(scored, 0)
    tokens = len(far)
    assert stats["clamped/far"].mean == pytest.approx(2 / tokens)
    assert stats["clamped/tied"].mean == 0
    assert stats["capped/tied"].mean == pytest.approx((tokens // 2) / tokens)
    assert "capped/far" not in stats and "clamped/whole" not in stats and "clamped/merged" not in stats
    assert stats["kl/whole/exact"].mean > 1e-3
    assert "kl/merged/exact" not in stats, "a merged divergence is not the KL"
    assert 0 < stats["divergence/merged"].mean < stats["divergence/whole"].mean


def test_top_k_of_the_whole_vocabulary_trains_as_exact_does(model: Path):
    gradients = []
    for estimator in ("exact", {"name": "top_k", "k": 10**6}, {"name": "top_k", "k": 2}):
        learner = make(model, algorithm=TWICE, max_engine_gap=1.0, regularizers={"kl": {"coefficient": 1.0, "estimator": estimator}})
        gradients.append(capture_gradient(learner, moved(learner)))
    whole, same, merged = gradients
    assert all(torch.equal(whole[n], same[n]) for n in whole)
    assert any((whole[n] - merged[n]).abs().max() > 1e-5 for n in whole)


@pytest.mark.parametrize(("regularizer", "biased"), [({"estimator": "k3", "allow_biased": True}, ["kl"]), ({}, [])])
def test_the_summary_names_what_ran_biased(regularizer, biased, model: Path, tmp_path: Path):
    regularizers = {"kl": {"coefficient": 0.1} | regularizer, "other": {"coefficient": 0.1, "divergence": "forward_kl"}}
    summary = train(recipes.build(node(model, steps=1, sampling={"max_tokens": 1}, regularizers=regularizers)), tmp_path)
    assert summary["biased"] == json.loads((tmp_path / "summary.json").read_text())["biased"] == biased
