"""Which GPUs the learners of `recipes/real` fit, and what a refusal says: arithmetic on the published sizes of the models."""

from __future__ import annotations

from functools import cache

import pytest
from helpers.paths import RECIPES
from transformers import AutoConfig

from align.config.recipes import load
from align.config.schema import Recipe
from align.errors import UserError
from align.learner.budgets import Budgets, budgets_within, share_of_device
from align.learner.memory import ModelShape, shape_of_config

SMOLLM2, QWEN05, QWEN7, QWEN3, LLAMA1, LLAMA8 = (
    ("llama", 576, 1536, 30, 9, 3, 49152, True),
    ("qwen2", 896, 4864, 24, 14, 2, 151936, True),
    ("qwen2", 3584, 18944, 28, 28, 4, 152064, False),
    ("qwen3", 2560, 9728, 36, 32, 8, 151936, True),
    ("llama", 2048, 8192, 16, 32, 8, 128256, True),
    ("llama", 4096, 14336, 32, 32, 8, 128256, False),
)
KEYS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
MODELS = {
    "smollm2_gsm8k_grpo": SMOLLM2,
    "smollm2_hh_dpo": SMOLLM2,
    "smollm2_sums": SMOLLM2,
    "qwen2.5_0.5b_gsm8k_grpo": QWEN05,
    "qwen2.5_7b_math_grpo": QWEN7,
    "qwen3_4b_math_grpo": QWEN3,
    "llama3.2_1b_tldr_dpo": LLAMA1,
    "llama3.1_8b_ultrafeedback_dpo": LLAMA8,
}
"""The model of each recipe, as its config.json on the Hub has it: model_type, `KEYS`, and whether the embeddings are tied."""
LOCAL = ("workers.backend=local",)
ONE_GPU = ("workers.rollout=1", "workers.learner_gpus=0.5", "workers.rollout_gpus=0.5", "engine.gpu_memory_utilization=0.35")


def made(name: str, *changes: str) -> Recipe:
    return load(RECIPES / "real" / f"{name}.yaml", changes)


@cache
def shape(name: str) -> ModelShape:
    kind, *sizes, tied = MODELS[name]
    return shape_of_config(AutoConfig.for_model(kind, **dict(zip(KEYS, sizes, strict=True)), tie_word_embeddings=tied), made(name).model)


def plan(name: str, size: float, *changes: str) -> Budgets:
    """On a GPU of `size` GB."""
    recipe = made(name, *changes)
    return budgets_within(recipe, shape(name), size * 1e9 * share_of_device(recipe))


def test_there_is_a_model_for_every_recipe():
    assert MODELS.keys() == {path.stem for path in (RECIPES / "real").glob("*.yaml")}


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("smollm2_gsm8k_grpo", 134.5),
        ("qwen2.5_0.5b_gsm8k_grpo", 494.0),
        ("qwen2.5_7b_math_grpo", 7615.6),
        ("qwen3_4b_math_grpo", 4022.5),
        ("llama3.2_1b_tldr_dpo", 1235.8),
    ],
)
def test_the_sizes_are_those_of_the_published_models(name: str, millions: float):
    """By the counts of parameters on their pages."""
    own = shape(name).parameters - (shape(name).trained if made(name).model.lora.rank else 0)
    assert own / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(
    ("name", "smallest", "changes"),
    [
        ("smollm2_gsm8k_grpo", 8, ()),
        ("smollm2_gsm8k_grpo", 8, LOCAL),
        ("smollm2_sums", 8, ()),
        ("smollm2_hh_dpo", 8, ()),
        ("smollm2_hh_dpo", 8, LOCAL),
        ("qwen2.5_0.5b_gsm8k_grpo", 40, ()),
        ("qwen2.5_7b_math_grpo", 80, ()),
        ("qwen2.5_7b_math_grpo", 80, ONE_GPU),
        ("qwen3_4b_math_grpo", 80, ()),
        ("llama3.2_1b_tldr_dpo", 40, ()),
        ("llama3.2_1b_tldr_dpo", 80, LOCAL),
        ("llama3.1_8b_ultrafeedback_dpo", 40, ()),
        ("llama3.1_8b_ultrafeedback_dpo", 80, LOCAL),
    ],
)
def test_a_recipe_fits_the_gpu_that_its_header_names(name: str, smallest: float, changes: tuple[str, ...]):
    for size in (size for size in (8, 16, 24, 40, 80) if size >= smallest):
        assert plan(name, size, *changes).micro_tokens >= made(name).sampling.max_tokens


@pytest.mark.parametrize(
    ("name", "size", "changes", "says"),
    [
        ("qwen2.5_0.5b_gsm8k_grpo", 8, (), r"into 4 GB of device memory \(its share is workers\.learner_gpus, 0\.5\): .*\. Train adapters"),
        (
            "qwen2.5_0.5b_gsm8k_grpo",
            16,
            (),
            r"into 8 GB of .* Train adapters \(model\.lora\.rank\), or use a smaller model or a larger device$",
        ),
        ("qwen2.5_7b_math_grpo", 8, (), r"weights 15\.4 GB, gradients and optimizer 1\.29 GB\. Use a smaller model or a larger device$"),
        ("qwen2.5_7b_math_grpo", 16, (), r"into 16 GB of device memory: weights 15\.4 GB"),
        ("qwen2.5_7b_math_grpo", 24, ("model.dtype=float32",), r"\. Hold the model in bfloat16 \(model\.dtype\), or use a smaller model"),
        ("llama3.1_8b_ultrafeedback_dpo", 8, (), r"weights 16\.2 GB, gradients and optimizer 1\.34 GB\. Use a smaller model"),
        ("llama3.1_8b_ultrafeedback_dpo", 16, (), r"weights 16\.2 GB"),
        ("llama3.1_8b_ultrafeedback_dpo", 24, LOCAL, r"into 12 GB of device memory \(half of the device: with workers\.backend local the"),
        (
            "smollm2_gsm8k_grpo",
            8,
            ("model.activation_checkpointing=false",),
            "4,096 tokens keeps 5.76 GB .* model.activation_checkpointing: true",
        ),
    ],
)
def test_a_smaller_gpu_is_refused_with_what_helps(name: str, size: float, changes: tuple[str, ...], says: str):
    with pytest.raises(UserError, match=says):
        plan(name, size, *changes)
