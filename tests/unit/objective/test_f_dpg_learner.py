"""f-DPG in a learner and a run: its own reference, its state in checkpoints, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import tiny_model
from helpers.rollouts import groups
from unit.learner.small import capture_gradient, make, moved, node

from align.config import recipes
from align.errors import RecipeError, UserError
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.inspect.explain import explain
from align.learner.learner import Learner
from align.run.state import RunState
from align.types import Rewards, TokenBatch

KL = {"kl": {"coefficient": 0.1, "reference": "frozen"}}
ANY_GAP = {"max_engine_gap": 100}
"""The log-probs of the engine are made up."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def batch(learner: Learner, state: RunState) -> TokenBatch:
    rewards = Rewards(values=np.random.default_rng(0).random(12).astype(np.float32))
    packed = pack(groups(0), rewards)
    drawn = replace(packed, sampler_logp=-2.0 - torch.rand(len(packed.seq_ids), generator=torch.Generator().manual_seed(0)))
    return prepare_batch(learner.recipe, learner.compute_logprobs(state.begin(drawn, 0)))


def test_the_gradient_does_not_depend_on_micro_batches(model: Path):
    found = []
    for micro_tokens in (10_000, 1):
        learner = moved(make(model, **ANY_GAP, algorithm="f_dpg", batch={"prompts": 4, "samples": 3, "micro_tokens": micro_tokens}))
        found.append(capture_gradient(learner, batch(learner, RunState(learner.recipe))))
    for key, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][key], rtol=1e-4, atol=1e-6)
    assert max(gradient.abs().max() for gradient in found[0].values()) > 1e-3


def test_its_reference_is_shared_measured_and_checkpointed(model: Path):
    learner = make(model, algorithm={"name": "f_dpg", "reference": "frozen"}, regularizers=KL)
    assert learner.references["algorithm"] is learner.references["kl"]
    made = moved(make(model, **ANY_GAP, algorithm={"name": "f_dpg", "reference": {"name": "ema", "rate": 0.5}}, regularizers=KL))
    scored = batch(made, RunState(made.recipe))
    stats = made.update(scored, 0)
    assert stats["ref/algorithm/version"].mean == 1 and stats["kl/ref/k3"].mean > 1e-4 and stats["kl/algorithm/k3"].mean > 1e-4
    assert set(made.reference_info()) == {"kl", "algorithm"}


def test_its_state_is_restored(model: Path):
    made = make(model, algorithm={"name": "f_dpg", "log_z": "prompt"})
    state = RunState(made.recipe)
    state.control(batch(made, state), {})
    assert state.algorithm["recent"] and state.algorithm["baseline"] and len(state.algorithm["log_sums"]) == 4
    other = RunState(made.recipe)
    other.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert other.algorithm == state.algorithm and other.begin(batch(made, state), 1).algorithm_state["log_sums"]
    with pytest.raises(UserError, match="algorithm: the checkpoint is of another one, whose state has no baseline, log_sums, recent"):
        other.load_state_dict(state.state_dict() | {"algorithm": {}})


def test_an_earlier_baseline_changes_the_gradient_of_a_batch(model: Path):
    made = moved(make(model, **ANY_GAP, algorithm="f_dpg"))
    scored = batch(made, RunState(made.recipe))
    one, other = (
        capture_gradient(made, replace(scored, algorithm_state=scored.algorithm_state | {"baseline": baseline})) for baseline in (0.0, 2.0)
    )
    assert max((one[key] - other[key]).abs().max() for key in one) > 1e-3


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ({"algorithm": {"name": "f_dpg", "divergence": "renyi"}}, "algorithm", "use an f-divergence"),
        ({"algorithm": {"name": "f_dpg", "beta": 0}}, "algorithm", "beta and clamp must be positive"),
        ({"algorithm": {"name": "f_dpg", "reference": "precomputed"}}, "algorithm.reference", "only rankings are known before"),
        ({"algorithm": "f_dpg", "regularizers": {"algorithm": KL["kl"]}}, "regularizers.algorithm", "call this regularizer otherwise"),
        ({"algorithm": "f_dpg", "regularizers": {"kl": KL["kl"] | {"placement": "reward"}}}, "algorithm", "placement: loss"),
    ],
    ids=["no f", "beta", "precomputed", "name", "reward placement"],
)
def test_refused(changes: dict, where: str, says: str, tmp_path: Path):
    with pytest.raises(RecipeError) as caught:
        recipes.build(node(tmp_path, **changes))
    assert caught.value.where == where and says in str(caught.value)


def test_it_is_explained(tmp_path: Path):
    text = explain(recipes.build(node(tmp_path, algorithm={"name": "f_dpg", "divergence": "forward_kl"})))
    assert "D_f(π‖p) of whole answers, f of forward_kl" in text and "frozen for algorithm: one copy" in text
