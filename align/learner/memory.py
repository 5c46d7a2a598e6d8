"""Estimates the memory of a learner from the shape of its model, before anything is loaded. Every number is in bytes.

Activations are counted for a pre-norm decoder with a gated feed-forward layer and attention that stores no score matrix. For a
1536-wide Qwen2 in bfloat16 the estimate is 106 kB a token; hooks on the saved tensors count 103 kB.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from align.config.schema import Model, Recipe
from align.references import of_recipe

WIDTH = {"float32": 4, "bfloat16": 2}
"""Bytes of one value, by `model.dtype`."""
ON_HOST = {"micro_tokens": 1 << 16, "head_elements": 1 << 24}
"""Budgets on a CPU. The logits take 64 MiB in float32, which suits a core's caches and a laptop's memory."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model that its memory depends on."""

    parameters: int
    """All of them, adapters included."""
    trained: int
    vocabulary: int
    hidden: int
    layers: int
    intermediate: int
    """Width of the feed-forward layer; in a mixture of experts, the summed width of the experts that one token uses."""
    queries: int
    """Width of all query heads."""
    keys: int
    """Width of all key heads."""

    @property
    def cache_a_token(self) -> int:
        """Cached numbers per token in an engine: keys and values of every layer."""
        return 2 * self.layers * self.keys


def shape_of(module: torch.nn.Module, config: PretrainedConfig) -> ModelShape:
    """The shape of a model as it is trained, on any device including `meta`."""
    text = config.get_text_config()
    # Models without attention (Mamba, RWKV) keep states of about their width.
    heads = getattr(text, "num_attention_heads", None) or 1
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    experts = getattr(text, "num_experts_per_tok", None)
    dense = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return ModelShape(
        parameters=sum(n for n, _ in sizes),
        trained=sum(n for n, grad in sizes if grad),
        vocabulary=text.vocab_size,
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        intermediate=experts * (getattr(text, "moe_intermediate_size", None) or dense) + _shared(text) if experts else dense,
        queries=heads * head_width,
        keys=key_heads * head_width,
    )


def _shared(text: PretrainedConfig) -> int:
    """Width of the shared experts, under the config names of Qwen2-MoE and DeepSeek."""
    each = getattr(text, "moe_intermediate_size", None) or 0
    return (getattr(text, "shared_expert_intermediate_size", None) or 0) + (getattr(text, "n_shared_experts", None) or 0) * each


def shape_of_config(config: PretrainedConfig, options: Model) -> ModelShape:
    """The shape of the model that a configuration describes, adapters included; no weights are allocated."""
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
        if options.lora.rank:
            # peft takes a second to import, which no estimate without adapters needs.
            from align.learner.adapters import add_lora  # noqa: PLC0415

            module = add_lora(module, options, "CAUSAL_LM")
    return shape_of(module, config)


def permanent_memory(recipe: Recipe, shape: ModelShape) -> dict[str, int]:
    """The permanent memory of a learner, by kind."""
    width, lora = WIDTH[recipe.model.dtype], recipe.model.lora.rank > 0
    found = {"weights": shape.parameters * width, "gradients and optimizer": shape.trained * training_bytes(width)}
    references = {repr(reference): reference for reference in of_recipe(recipe).values()}
    held = sum(r.bytes_held(shape.trained, shape.parameters, width, lora) for r in references.values())
    if held:
        found["references"] = held
    critic = recipe.algorithm.critic
    if critic is not None and (own := critic.values_trained(shape.parameters)):
        found["critic"] = own * (width + training_bytes(width))
    return found


def training_bytes(width: int) -> int:
    """Bytes per trained value besides the value: gradient and Adam's two moments in float32, and a float32 master of a narrower value."""
    return 12 if width == 4 else 16


def activations(recipe: Recipe, shape: ModelShape, tokens: int) -> int:
    """Activations that one forward pass over this many input tokens keeps for its backward pass."""
    width = WIDTH[recipe.model.dtype]
    norms = 2 * (4 + 2 * width) * shape.hidden  # float32 input of the norm; its result before and after the weight
    attention = width * (3 * shape.queries + 2 * shape.keys)
    layer = norms + attention + 4 * width * shape.intermediate
    kept = layer + width * shape.hidden * shape.layers if recipe.model.activation_checkpointing else layer * shape.layers
    return tokens * kept


def logits(recipe: Recipe, shape: ModelShape, tokens: int) -> int:
    """float32 logits of the policy and of each compared reference for this many tokens, and their gradient."""
    return tokens * shape.vocabulary * (4 * models_with_logits(recipe) + WIDTH[recipe.model.dtype])


def models_with_logits(recipe: Recipe) -> int:
    """Models whose logits are in memory together: the policy and the reference of each exact form."""
    return 1 + sum(r.full_vocabulary for r in recipe.regularizers.values())


def gigabytes(count: float) -> str:
    """The bytes as text, in kB, MB or GB."""
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB")) if count >= u), (1e3, "kB"))
    return f"{count / unit:.3g} {name}"
