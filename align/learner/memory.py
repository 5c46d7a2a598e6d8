"""How much memory a learner needs, from the shape of its model: arithmetic before anything is loaded. Every number is in bytes.

An estimate. What a layer keeps for the backward pass is counted for a pre-norm decoder with a gated feed-forward layer and
scaled-dot-product attention that keeps no matrix of scores; for a 1536-wide Qwen2 in bfloat16 it gives 106 kB a token, and hooks on the
saved tensors count 103 kB.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from align.config.schema import Model, Recipe

WIDTH = {"float32": 4, "bfloat16": 2}
"""Of one value, by `model.dtype`."""
ON_HOST = {"micro_tokens": 1 << 16, "head_elements": 1 << 24}
"""64 MiB of float32 logits: what a core's caches and a laptop's memory like."""


@dataclass(frozen=True)
class ModelShape:
    """What the memory of a model depends on."""

    parameters: int
    """All of them, adapters included."""
    trained: int
    vocabulary: int
    hidden: int
    layers: int
    intermediate: int
    """Width of the feed-forward layer; of a mixture of experts, of those that one token takes together."""
    queries: int
    """Width of all query heads."""
    keys: int
    """Width of all key heads."""

    @property
    def cache_a_token(self) -> int:
        """Values that an engine keeps of each token: keys and values of every layer."""
        return 2 * self.layers * self.keys


def shape_of(module: torch.nn.Module, config: PretrainedConfig) -> ModelShape:
    """Of a model as it is trained (on any device, `meta` too)."""
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
    """Intermediate values of the experts that every token goes through, as Qwen2-MoE and DeepSeek name them."""
    each = getattr(text, "moe_intermediate_size", None) or 0
    return (getattr(text, "shared_expert_intermediate_size", None) or 0) + (getattr(text, "n_shared_experts", None) or 0) * each


def shape_of_config(config: PretrainedConfig, options: Model) -> ModelShape:
    """Of the model that a configuration describes, its adapters included; no value of it is made."""
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
        if options.lora.rank:
            # peft takes a second to import, which no estimate without adapters needs.
            from align.learner.backbone import add_lora  # noqa: PLC0415

            module = add_lora(module, options, "CAUSAL_LM")
    return shape_of(module, config)


def standing(recipe: Recipe, shape: ModelShape) -> dict[str, int]:
    """What a learner holds all the time, by what it is."""
    width, lora = WIDTH[recipe.model.dtype], recipe.model.lora.rank > 0
    found = {"weights": shape.parameters * width, "gradients and optimizer": shape.trained * training_bytes(width)}
    references = {repr(r.reference): r.reference for r in recipe.regularizers.values() if r.reference is not None}
    held = sum(r.bytes_held(shape.trained, shape.parameters, width, lora) for r in references.values())
    if held:
        found["references"] = held
    critic = recipe.algorithm.critic
    if critic is not None and (own := critic.values_trained(shape.parameters)):
        found["critic"] = own * (width + training_bytes(width))
    return found


def training_bytes(width: int) -> int:
    """Of each trained value beside itself: the gradient and Adam's two moments in float32, and a float32 master of a shorter one."""
    return 12 if width == 4 else 16


def activations(recipe: Recipe, shape: ModelShape, tokens: int) -> int:
    """What one forward pass over this many input tokens keeps for its backward pass."""
    width = WIDTH[recipe.model.dtype]
    norms = 2 * (4 + 2 * width) * shape.hidden  # float32 input of the norm; its result before and after the weight
    attention = width * (3 * shape.queries + 2 * shape.keys)
    layer = norms + attention + 4 * width * shape.intermediate
    kept = layer + width * shape.hidden * shape.layers if recipe.model.activation_checkpointing else layer * shape.layers
    return tokens * kept


def logits(recipe: Recipe, shape: ModelShape, tokens: int) -> int:
    """float32 logits of the policy and of each compared reference for this many tokens, and their gradient."""
    return tokens * shape.vocabulary * (4 * sides(recipe) + WIDTH[recipe.model.dtype])


def sides(recipe: Recipe) -> int:
    """Models whose logits are in memory together: the policy and the reference of each exact form."""
    return 1 + sum(r.full_vocabulary for r in recipe.regularizers.values())


def gigabytes(count: float) -> str:
    """In words."""
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB")) if count >= u), (1e3, "kB"))
    return f"{count / unit:.3g} {name}"
