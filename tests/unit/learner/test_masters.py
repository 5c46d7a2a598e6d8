"""What is trained in bfloat16 keeps float32 values: no update is too small for them, in one step, over many and after a resume."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import tiny_model
from helpers.paths import PLUGINS
from helpers.rollouts import groups

from align.config import recipes
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.learner.mixed_precision_adamw import MasterAdamW
from align.run.state import RunState
from align.types import Rewards
from align.weight_sync.flattening import unflatten

PLUGIN = PLUGINS / "systematic.py"
ADAM = {"lr": 1e-6, "betas": (0.9, 0.99), "weight_decay": 0.1, "fused": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def make(folder: Path, dtype: str, **changes) -> Learner:
    return Learner(
        recipes.build(
            {
                "steps": 99,
                "task": f"{PLUGIN}:OnePrompt",
                "reward": f"{PLUGIN}:ByToken",
                "engine": f"{PLUGIN}:Systematic",
                "algorithm": "grpo",
                "model": {"path": str(folder), "dtype": dtype},
                "batch": {"prompts": 4, "samples": 3},
                "sampling": {"max_tokens": 6},
                "optimizer": {"lr": 1e-6},
                "workers": {"backend": "local"},
                "evaluation": {"every": -1},
                "max_engine_gap": 99.0,
            }
            | changes
        ),
        str(folder),
    )


def learn(learner: Learner, steps: range) -> Learner:
    for step in steps:
        rewards = Rewards(values=np.random.default_rng(step).random(12).astype(np.float32))
        betas = RunState(learner.recipe).betas(0)
        learner.update(prepare_batch(learner.recipe, learner.compute_logprobs(replace(pack(groups(step), rewards), betas=betas))), step)
    return learner


def values(learner: Learner) -> dict[str, torch.Tensor]:
    return {n: learner.optimizer.master(p).detach().clone() for n, p in learner.trained()}


def test_masters_are_moved_as_float32_parameters_are():
    generator = torch.Generator().manual_seed(0)
    half = torch.nn.Parameter(torch.randn(99, generator=generator).bfloat16())
    full = torch.nn.Parameter(half.detach().float())
    ours, theirs = MasterAdamW([{"params": [half]}], **ADAM), torch.optim.AdamW([full], **ADAM)
    for _ in range(20):
        gradient = torch.randn(99, generator=generator).bfloat16()
        ours.zero_grad()
        (half * gradient).sum().backward()
        full.grad = gradient.float()
        ours.step()
        theirs.step()
    assert torch.equal(ours.master(half), full) and torch.equal(half, full.bfloat16())
    assert (full - half).abs().max() > 1e-6, "the updates are below what the parameter can hold"


def test_gradients_add_up_in_float32():
    half = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = MasterAdamW([{"params": [half]}], **ADAM)
    for gradient in (1.0, 2.0**-12):
        (half * gradient).sum().backward()
    assert optimizer.master(half).grad.item() == 1 + 2.0**-12 and half.grad is None
    optimizer.zero_grad()
    (half * 0.5).sum().backward()
    assert optimizer.master(half).grad.item() == 0.5


def test_a_float32_parameter_is_its_own_master():
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = MasterAdamW([{"params": [p]}], **ADAM)
    assert optimizer.master(p) is p and optimizer.param_groups[0]["params"][0] is p


def test_a_tiny_rate_moves_a_bfloat16_policy_as_it_moves_a_float32_one(model: Path):
    made = {dtype: make(model, dtype) for dtype in ("float32", "bfloat16")}
    before = {dtype: values(learner) for dtype, learner in made.items()}
    rounded = {n: p.detach().clone() for n, p in made["bfloat16"].trained()}
    after = {dtype: values(learn(learner, range(30))) for dtype, learner in made.items()}
    full, half = (torch.cat([(after[dtype][n] - before[dtype][n]).flatten() for n in after[dtype]]) for dtype in made)
    assert torch.cosine_similarity(full, half, 0) > 0.95 and 0.95 < half.norm() / full.norm() < 1.05
    lost = torch.cat([(p.detach() == rounded[n]).flatten() for n, p in made["bfloat16"].trained()])
    assert lost.float().mean() > 0.9, "bfloat16 itself would have kept next to none of it"
    assert all(torch.equal(p, after["bfloat16"][n].bfloat16()) for n, p in made["bfloat16"].trained())


@pytest.mark.parametrize("changes", [{}, {"algorithm": {"name": "ppo", "critic": "separate"}}], ids=["policy", "with a critic"])
def test_a_resumed_bfloat16_run_is_the_uninterrupted_one(model: Path, tmp_path: Path, changes: dict):
    whole = learn(make(model, "bfloat16", **changes), range(3))
    whole.save(str(tmp_path / "three"))
    resumed = make(model, "bfloat16", **changes)
    resumed.load(str(tmp_path / "three"))
    pushed = [dict(unflatten(learner.weights())) for learner in (whole, resumed)]
    assert all(torch.equal(pushed[0][n], pushed[1][n]) and pushed[0][n].dtype == torch.bfloat16 for n in pushed[0])
    one, two = (values(learn(learner, range(3, 5))) for learner in (whole, resumed))
    assert all(torch.equal(one[n], two[n]) and one[n].dtype == torch.float32 for n in one)


def with_lora(model: Path, dtype: str) -> Learner:
    return make(model, dtype, model={"path": str(model), "dtype": dtype, "lora": {"rank": 2}})


def test_adapters_compute_in_the_precision_of_the_model_they_are_on(model: Path):
    learner = with_lora(model, "bfloat16")
    inside = dict(learner.policy.module.named_modules())
    layers = {n.rpartition(".lora_")[0] for n, _ in learner.trained()}
    assert layers and all(learner.optimizer.master(p).dtype == torch.float32 for _, p in learner.trained())
    for name in layers:
        parts = (inside[name].lora_A["default"], inside[name].lora_B["default"], inside[name].base_layer)
        assert [part.weight.dtype for part in parts] == [torch.bfloat16] * 3


def test_a_tiny_rate_moves_an_adapter_on_a_bfloat16_model(model: Path):
    """Thirty updates of 1e-6: an entry of A, about 0.1, takes none of them by itself."""
    learner = with_lora(model, "bfloat16")
    before = values(learner)
    rounded = {n: p.detach().clone() for n, p in learner.trained()}
    after = values(learn(learner, range(30)))
    moved = torch.cat([(after[n] - before[n]).abs().flatten() for n in after])
    assert 1e-6 < moved.mean() < 40e-6
    stayed = torch.cat([(p.detach() == rounded[n]).flatten() for n, p in learner.trained() if ".lora_A." in n])
    assert stayed.float().mean() > 0.9, "bfloat16 itself would have kept next to none of it"


def test_a_resumed_adapter_goes_on_from_its_float32_values(model: Path, tmp_path: Path):
    whole = learn(with_lora(model, "bfloat16"), range(3))
    whole.save(str(tmp_path / "three"))
    resumed = with_lora(model, "bfloat16")
    resumed.load(str(tmp_path / "three"))
    one, two = (values(learn(learner, range(3, 5))) for learner in (whole, resumed))
    assert all(torch.equal(one[n], two[n]) for n in one)
