"""A model of a few thousand parameters with a real tokenizer, in a Hugging Face folder, to check engines and references with."""

from __future__ import annotations

from pathlib import Path

import torch

from align.tasks.countdown import Countdown

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
}
"""Configuration of the model, with a head size that vLLM's CPU attention supports."""


def tiny_model(folder: Path, seed: int = 0, spread: float = 0.15) -> Path:
    """Save a random Qwen2 and the countdown tokenizer (one token per character) in `folder`, and return the folder.

    Args: spread: standard deviation of the weights, large enough that stale weights change the distributions clearly.
    """
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415  (seconds to import)
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    disable_progress_bar()
    tokenizer = Countdown().tokenizer()
    config = AutoConfig.for_model(
        "qwen2",
        **SHAPE,
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        initializer_range=spread,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)
