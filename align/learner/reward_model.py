"""A reward model or critic: a transformers sequence-classification model with one output, with or without LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.config.schema import Model
from align.learner import model_loading
from align.learner.adapters import add_lora, merged
from align.learner.backbone import at_the_end, before_each_token, device_of
from align.learner.forward_mode import adapter_dropout, set_mode
from align.types import TokenBatch
from align.vocabulary.files import load_tokenizer


class RewardModel:
    """Loads a causal language model, which gets a new head drawn from torch's generator, or a saved reward model.

    Scores are float32, in the reward's own unit. Raises UserError naming `where` for a folder with neither kind of model.
    """

    def __init__(self, model_dir: str, options: Model, where: str = "model.path"):
        self.model_dir, self.options = model_dir, options
        self.device = device_of(options)
        loaded = model_loading.load_reward_model(model_dir, options, where, fresh=True)
        self.classifier = model_loading.on_device(loaded, self.device)
        self.config = self.classifier.config
        self.tokenizer = load_tokenizer(model_dir, where)
        _pad_apart(self.classifier, self.tokenizer)
        self._adapted = add_lora(self.classifier, options, "SEQ_CLS") if options.lora.rank > 0 else None
        self.module: torch.nn.Module = self.classifier if self._adapted is None else self._adapted
        self._score = self.classifier.get_submodule("score")
        set_mode(self.classifier, self.module, options)

    def trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The trained parameters; with LoRA, the adapters and the head."""
        return ((n, p) for n, p in self.module.named_parameters() if p.requires_grad)

    def adapter_dropout(self) -> AbstractContextManager[None]:
        """`model.lora.dropout` is on inside, as in `Policy.adapter_dropout`."""
        return adapter_dropout(self.module)

    def scores(self, batch: TokenBatch) -> Tensor:
        """[S]: the head on the state after the last token of each sequence, whatever that token is."""
        return self._head(batch.input_ids, *at_the_end(batch))

    def values(self, batch: TokenBatch) -> Tensor:
        """[T]: the head on the state before each response token, where `Policy.hidden` reads it."""
        return self._head(batch.input_ids[:, :-1], *before_each_token(batch))

    def _head(self, input_ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        # Padding is on the right and attention is causal, so no position attends to it and no mask is needed.
        states = self.classifier.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        return self._score(states[rows, columns]).squeeze(-1).float()

    def export(self, folder: str | Path) -> None:
        """Save a folder for AutoModelForSequenceClassification, whose logits are `scores`; LoRA is merged and also saved separately."""
        if self._adapted is not None:
            self._adapted.save_pretrained(str(Path(folder) / "adapter"), save_embedding_layers=False)
        tensors = self.classifier.state_dict() if self._adapted is None else dict(merged(self.classifier))
        self.classifier.save_pretrained(folder, state_dict=tensors)
        self.tokenizer.save_pretrained(folder)


def _pad_apart(model: PreTrainedModel, tokenizer: Any) -> None:
    """Give model and tokenizer a pad token that is not the end token: transformers scores at the last token that is not padding.

    Many tokenizers pad with their end token. Then use a special token with "pad" in its name, or else add one.
    """
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        spare = [
            t.content
            for i, t in sorted(tokenizer.added_tokens_decoder.items())
            if t.special and "pad" in t.content.lower() and i != tokenizer.eos_token_id
        ]
        tokenizer.add_special_tokens({"pad_token": spare[0] if spare else "<|pad|>"})
        if len(tokenizer) > cast("torch.nn.Embedding", model.get_input_embeddings()).num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
