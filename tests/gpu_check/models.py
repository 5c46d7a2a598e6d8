"""A Qwen2 of random weights with the countdown task's tokenizer, made where it is needed."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from align.tasks.countdown import Countdown

SHAPES = {
    "cuda": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "cpu": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1009,
    },
}
"""By device: that of Qwen2.5-1.5B, and one for a rehearsal."""


def random_model(folder: Path, device: str) -> Path:
    """Save the model in bfloat16, and its tokenizer, as a Hugging Face folder; returns it."""
    tokenizer = Countdown().tokenizer()
    config = Qwen2Config(
        **SHAPES[device],
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with torch.device(device):
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # A token for each id: the learner's head has rows for ids with a token alone.
    file = folder / "tokenizer.json"
    written = json.loads(file.read_text())
    written["model"]["vocab"] |= {f"<{i}>": i for i in range(len(tokenizer), config.vocab_size)}
    file.write_text(json.dumps(written))
    return folder
