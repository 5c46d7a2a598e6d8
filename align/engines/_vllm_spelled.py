"""Keeps vLLM from drawing ids that have no token. vLLM builds it in its own worker, from the class alone."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import AutoTokenizer
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from align.vocabulary.spelled import Spelled


class OnlySpelled(LogitsProcessor):
    """-inf for every id without a token, in each request. Its log-probs are processed ones, so they are normalised over the tokens."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool):
        config = vllm_config.model_config
        rows = config.get_vocab_size()
        missing = torch.ones(rows, dtype=torch.bool)
        missing[Spelled.of(AutoTokenizer.from_pretrained(config.model), rows).ids] = False
        self._missing = missing.to(device)

    def apply(self, logits: Tensor) -> Tensor:
        return logits.masked_fill_(self._missing[: logits.shape[-1]], -torch.inf)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Every request has the same ids."""
