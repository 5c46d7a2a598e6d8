"""A tiny random model of every causal architecture of transformers: 16 wide, two layers, four experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SIZES: dict[str, Any] = (
    dict.fromkeys(("vocab_size",), 32)
    | dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "word_embed_proj_dim", "input_embedding_size"), 16)
    | dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers", "num_decoder_layers"), 2)
    | dict.fromkeys(("encoder_layers", "num_encoder_layers", "n_shared_experts"), 1)
    | dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "encoder_attention_heads"), 2)
    | dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_experts_per_tok", "top_k_experts", "index_n_heads", "moe_topk"), 2)
    | dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner", "dff", "ffn_hidden_size"), 24)
    | dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 8)
    | dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4)
    | dict.fromkeys(("head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "index_head_dim", "linear_head_dim"), 8)
    | dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "gated_norm_rank", "router_hidden_size", "dim_model_base"), 8)
    | dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_state", "state_size", "mamba_head_dim", "ssm_state_size"), 8)
    | dict.fromkeys(
        ("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads", "mamba_ngroups", "n_groups", "zero_expert_num"), 2
    )
    | dict.fromkeys(("mamba_n_heads", "n_mamba_heads", "mamba_num_heads"), 4)
    | dict.fromkeys(("max_position_embeddings", "n_positions"), 64)
    | {"rotary_dim": 4, "mamba_d_head": 8, "mamba_d_ssm": 32, "mamba_chunk_size": 8, "chunk_size": 8, "hidden_size_per_layer_input": 4}
    | {"vocab_size_per_layer_input": 32, "initializer_range": 0.3, "init_std": 0.3}
)
"""By key of a configuration; a key that an architecture does not have is left out."""
OWN: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 4},
    "reformer": {"is_decoder": True, "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [8, 8], "attn_layers": ["local", "local"]},
    "roc_bert": {"pronunciation_vocab_size": 32, "shape_vocab_size": 32},
    "xlm": {"emb_dim": 16, "n_langs": 1},
    "zamba": {"num_hidden_layers": 3, "layer_types": ["hybrid", "linear_attention", "hybrid"]},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["hybrid", "mamba", "hybrid"]},
    "axk1": {"n_group": 2, "topk_group": 1},
    "kimi_linear": {"num_experts": 4, "num_experts_per_token": 2},
    "mimo_v2_flash": {"num_attention_heads": 8, "num_key_value_heads": 4},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "xmod": {"default_language": "en_XX"},
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 1, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 16, "ffn_hidden_size": 24},
    },
    "gemma3n_text": {"num_kv_shared_layers": 0, "laurel_rank": 4},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}},
    "zaya": {"num_experts_per_tok": 1},
    "rwkv": {"rescale_every": 1},
    "blt": {"encoder_hash_byte_group_vocab": 16},
    "blt_local_encoder": {"hidden_size_global": 16},
    "blt_local_decoder": {"hidden_size_global": 16},
    "codegen": {"n_ctx": 64, "n_head": 4},
}
"""What one architecture needs beside `SIZES`; None takes a key out of them."""


def tiny_config(kind: str) -> PreTrainedConfig:
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return AutoConfig.for_model(kind, **{**_sizes(CONFIG_MAPPING[kind]()), **ids, **OWN.get(kind, {})})


def _sizes(default: PreTrainedConfig) -> dict[str, Any]:
    """The keys of `SIZES` that a configuration has, and the same of the configurations in it."""
    known, keys = default.to_dict(), {}
    for name in type(default).sub_configs:
        inner = getattr(default, name, None)
        if isinstance(inner, PreTrainedConfig):
            padded = {} if getattr(inner, "pad_token_id", None) is None else {"pad_token_id": 0}
            keys[name] = {**_sizes(inner), **padded, **OWN.get(inner.model_type, {})}
    return {k: v for k, v in SIZES.items() if k in known} | keys


def tiny_architecture(kind: str, folder: Path) -> None:
    """Save a random model of `kind` in `folder`, without a tokenizer. Its weights are spread enough for a misplaced one to show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config(kind), dtype=torch.float32)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
            for module in model.modules():
                if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0  # as some architectures do when they are loaded
    model.save_pretrained(folder)
