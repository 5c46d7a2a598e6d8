"""The policy: a transformers causal language model, whole or with LoRA, seen as hidden states and a head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import EllipsisType

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.func import functional_call
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from align.core.logprobs import Head
from align.errors import UserError
from align.recipe import Model
from align.types import TokenBatch

Override = dict[str, Tensor] | None | EllipsisType
OWN = ...
"""The policy's own parameters."""
BASE = None
"""The base model, its adapter off."""


class Policy:
    """Holds the model. `parameters` everywhere: other values for the trained parameters during one forward pass."""

    def __init__(self, model_dir: str, options: Model):
        self.causal_lm = load_causal_lm(model_dir, options.dtype)
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self.lora = options.lora.rank > 0
        self.module = add_lora(self.causal_lm, options) if self.lora else self.causal_lm
        self._decoder = self.causal_lm.get_decoder()
        names = {id(m): n for n, m in self.module.named_modules()}
        self._prefix = names[id(self._decoder)] + "."
        head = self.causal_lm.get_output_embeddings()
        self._head_name = next(n for n, p in self.module.named_parameters() if p is head.weight)
        self.module.eval()
        if options.activation_checkpointing:
            # transformers checkpoints in training mode only; every dropout is 0, so the mode changes nothing else.
            self.causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self.causal_lm.enable_input_require_grads()
            self.module.train()
        elif options.lora.dropout:
            self.module.train()

    def trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((n, p) for n, p in self.module.named_parameters() if p.requires_grad)

    def hidden(self, batch: TokenBatch, parameters: Override = OWN) -> Tensor:
        """The state that predicts each response token: [T, H]. `parameters`: OWN, BASE, or other values for the trained ones."""
        rows, columns = batch.seq_ids, batch.prompt_lengths[batch.seq_ids] + batch.positions - 1
        # Padding is on the right and attention is causal, so no position looks at it and no mask is needed.
        call = {"input_ids": batch.input_ids[:, :-1], "use_cache": False}
        with self._adapter_off() if parameters is BASE else nullcontext():
            if isinstance(parameters, dict):
                inside = {n.removeprefix(self._prefix): v.to(self.causal_lm.dtype)
                          for n, v in parameters.items() if n.startswith(self._prefix)}
                out = functional_call(self._decoder, inside, kwargs=call)
            else:
                out = self._decoder(**call)
        return out.last_hidden_state[rows, columns]

    def head(self, parameters: Override = OWN) -> Head:
        layer, config = self.causal_lm.get_output_embeddings(), self.causal_lm.config
        weight = layer.weight
        if isinstance(parameters, dict) and self._head_name in parameters:
            weight = parameters[self._head_name].to(weight.dtype)
        scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
        return Head(weight=weight, bias=layer.bias, scale=scale, softcap=getattr(config, "final_logit_softcapping", None))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the checkpoint under its Hugging Face name, adapters merged."""
        if not self.lora:
            tied = self._tied_names()
            yield from ((n, t) for n, t in self.causal_lm.state_dict().items() if n not in tied)
            return
        # Merging in place and taking it back would leave rounding behind in the base weights: merge copies.
        modules = dict(self.causal_lm.named_modules())
        for name, tensor in self.causal_lm.state_dict().items():
            if ".lora_" in name or name in self._tied_names():
                continue
            owner = name.rpartition(".base_layer.")[0]
            if owner and name.endswith(".weight"):
                tensor = tensor + modules[owner].get_delta_weight("default").to(tensor.dtype)
            yield name.replace(".base_layer.", "."), tensor

    def _tied_names(self) -> set[str]:
        return {n for n in self.causal_lm.state_dict() if n not in dict(self.causal_lm.named_parameters())} & set(
            getattr(self.causal_lm, "_tied_weights_keys", None) or ())

    def _adapter_off(self):
        return self.module.disable_adapter()

    def export(self, folder: str | Path) -> None:
        """A Hugging Face folder that `from_pretrained` and vLLM load; with LoRA the merged model, the adapter beside it."""
        if self.lora:
            self.module.save_pretrained(Path(folder) / "adapter")
        self.causal_lm.save_pretrained(folder, state_dict=dict(self.tensors()))
        self.tokenizer.save_pretrained(folder)


def load_causal_lm(model_dir: str, dtype: str) -> torch.nn.Module:
    """A causal model with every dropout at 0: dropout would make the policy differ from its own reference and engine."""
    transformers_logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype), attn_implementation="sdpa",
                                                     local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"model.path: {model_dir} holds no causal language model that transformers loads: "
                        f"{str(error).splitlines()[0]}") from error
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for key in ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(model.config, key):
            setattr(model.config, key, 0.0)
    return model


def add_lora(model: torch.nn.Module, options: Model) -> torch.nn.Module:
    targets = options.lora.targets if options.lora.targets == "all-linear" else options.lora.targets.split(",")
    try:
        return get_peft_model(model, LoraConfig(r=options.lora.rank, lora_alpha=options.lora.alpha, lora_dropout=options.lora.dropout,
                                                target_modules=targets, task_type="CAUSAL_LM"))
    except ValueError as error:
        raise UserError(f"model.lora.targets: {error}") from error
