"""Tiny models for tests: random weights, a real tokenizer, saved as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

ALPHABET = "0123456789+-*=:,sabcdef"
SPECIAL = ("<pad>", "<bos>", "<eos>")

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
KINDS = {
    "qwen2": {},
    "llama": {},
    "mistral": {"sliding_window": 5},
    "gemma2": {
        "sliding_window": 5,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
}
"""Keys of the configuration that `SHAPE` does not give, for model types that need some."""


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One character a token, 26 tokens, no token added by itself."""
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *ALPHABET))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def tiny_model(folder: Path, *, tied: bool = True, kind: str = "qwen2", seed: int = 0, spread: float = 0.3, **keys) -> Path:
    """Save a random causal LM of `kind` and its tokenizer in `folder`, and return it.

    `spread` is the standard deviation of the weights: the default makes distributions far from uniform, so a stale or
    misplaced weight shows in the log-probs.
    """
    return _saved(AutoModelForCausalLM, folder, kind, seed, spread, tie_word_embeddings=tied, **keys)


def tiny_scorer(folder: Path, *, kind: str = "qwen2", seed: int = 0, spread: float = 0.3, **keys) -> Path:
    """Save a random sequence-classification model of one output and its tokenizer in `folder`, and return it."""
    return _saved(AutoModelForSequenceClassification, folder, kind, seed, spread, **{"num_labels": 1} | keys)


def _saved(made_by, folder: Path, kind: str, seed: int, spread: float, **keys) -> Path:
    tokenizer = tiny_tokenizer()
    config = AutoConfig.for_model(
        kind,
        **({} if kind == "gpt2" else SHAPE) | KINDS.get(kind, {}) | keys,
        vocab_size=len(tokenizer),
        initializer_range=spread,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made_by.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)
