"""What a learner's memory is planned to be: pure arithmetic, for devices that are not here."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, Qwen2Config

from align.config import recipes
from align.config.schema import Batch, Recipe
from align.errors import UserError
from align.learner.budgets import ENOUGH_TOKENS, MOST_RECOMPUTED, MOST_TOKENS, Budgets, budgets_within, cpu_budgets
from align.learner.memory import ModelShape, activations, gigabytes, logits, permanent_memory, shape_of_config

QWEN = Qwen2Config(
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    vocab_size=151936,
    tie_word_embeddings=True,
)
GB = 1e9


def made(*overrides: str) -> Recipe:
    return recipes.load("recipes/countdown_grpo.yaml", ["model.recipe=null", "model.path=nowhere", "model.dtype=bfloat16", *overrides])


def plan(gigabytes: float, *overrides: str) -> Budgets:
    asked = made(*overrides)
    return budgets_within(asked, shape_of_config(QWEN, asked.model), gigabytes * GB)


def test_the_shape_of_a_configuration():
    shape = shape_of_config(QWEN, made().model)
    assert shape == ModelShape(
        parameters=1543714304, trained=1543714304, vocabulary=151936, hidden=1536, layers=28, intermediate=8960, queries=1536, keys=256
    )
    adapted = shape_of_config(QWEN, made("model.lora.rank=16").model)
    assert adapted.trained == adapted.parameters - shape.parameters == 18464768, "peft's own count of its adapters"


def test_what_a_learner_holds():
    """By hand: two bytes a weight; a float32 gradient, two moments and a master; a frozen copy in the policy's dtype."""
    n, shape = 1543714304, shape_of_config(QWEN, made().model)
    assert permanent_memory(made(), shape) == {"weights": 2 * n, "gradients and optimizer": 16 * n, "references": 2 * n}
    assert permanent_memory(made("model.dtype=float32"), shape) == {
        "weights": 4 * n,
        "gradients and optimizer": 12 * n,
        "references": 4 * n,
    }
    assert permanent_memory(made("regularizers.kl.reference=ema"), shape)["references"] == 4 * n
    assert "references" not in permanent_memory(made("model.lora.rank=16"), shape), "the adapter is switched off for it"
    assert permanent_memory(made("algorithm={name: ppo, critic: separate}"), shape)["critic"] == 18 * n
    assert "critic" not in permanent_memory(made("algorithm={name: ppo, critic: shared}"), shape)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_what_autograd_saves(dtype: str):
    """One more layer of a small model saves, by torch's own hooks, about what the arithmetic says."""

    def saved(layers: int) -> int:
        torch.manual_seed(0)
        config = Qwen2Config(
            hidden_size=64, intermediate_size=320, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2, vocab_size=50
        )
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
        seen: dict[int, int] = {}
        parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda t: t):
            kept = model.get_decoder()(input_ids=torch.zeros(1, 128, dtype=torch.long), use_cache=False)
        del kept
        return sum(seen.values())

    asked = made(f"model.dtype={dtype}")
    shape = ModelShape(parameters=0, trained=0, vocabulary=50, hidden=64, layers=1, intermediate=320, queries=64, keys=32)
    assert activations(asked, shape, 128) == pytest.approx(saved(2) - saved(1), rel=0.15)
    stored = activations(made(f"model.dtype={dtype}", "model.activation_checkpointing=true"), shape, 128)
    assert stored == activations(asked, shape, 128) + 128 * 64 * (4 if dtype == "float32" else 2), "its input, and one layer at a time"


@pytest.mark.parametrize("size", [80, 141])
@pytest.mark.parametrize("options", [(), ("model.activation_checkpointing=true",), ("model.lora.rank=16",), ("model.dtype=float32",)])
def test_a_plan_fits_its_device(size: float, options: tuple[str, ...]):
    asked = made(*options)
    shape, found = shape_of_config(QWEN, asked.model), plan(size, *options)
    whole = found.head_elements == found.micro_tokens * shape.vocabulary * 2
    head = logits(asked, shape, found.micro_tokens) if whole else 4 * found.head_elements
    spent = sum(permanent_memory(asked, shape).values()) + activations(asked, shape, found.micro_tokens) + head + found.kept_bytes
    assert spent <= 0.9 * size * GB and found.micro_tokens <= MOST_TOKENS
    assert whole or found.head_elements <= MOST_RECOMPUTED
    assert whole or found.micro_tokens < ENOUGH_TOKENS, "logits are kept wherever a forward pass of a useful size leaves room for them"


def test_checkpointing_makes_room():
    assert plan(141, "model.activation_checkpointing=true").micro_tokens > 2 * plan(141).micro_tokens


def test_no_exact_form_keeps_one_side():
    found = plan(141, "regularizers.kl.estimator=sampled")
    assert found.head_elements == 151936 * found.micro_tokens


def test_what_is_stated_is_taken():
    found = plan(141, "batch.micro_tokens=2048", "batch.head_elements=1000")
    assert (found.micro_tokens, found.head_elements) == (2048, 1000)


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (
            24,
            (),
            r"does not fit into 24 GB of device memory: weights 3\.09 GB, gradients and optimizer 24\.7 GB, references 3\.09 GB\. Train "
            r"adapters \(model\.lora\.rank\)",
        ),
        (
            80,
            ("batch.micro_tokens=65536",),
            r"batch\.micro_tokens: a forward pass over 65,536 tokens keeps 195 GB .* there are 41\.1 GB .* "
            r"give fewer, or set model\.activation_checkpointing: true",
        ),
    ],
)
def test_what_cannot_fit_is_refused_with_the_way_out(size: float, options: tuple[str, ...], message: str):
    with pytest.raises(UserError, match=message):
        plan(size, *options)


def test_without_a_device_of_its_own():
    assert cpu_budgets(Batch())[:2] == (65536, 1 << 24) and cpu_budgets(Batch(micro_tokens=7, head_elements=9))[:2] == (7, 9)


def test_sizes_in_words():
    assert [gigabytes(n) for n in (1543714304 * 2, 5.5e6, 1200)] == ["3.09 GB", "5.5 MB", "1.2 kB"]
