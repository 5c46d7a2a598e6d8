"""The policy: a transformers causal language model, with or without LoRA, split into hidden states and a head."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from align.config.schema import Lora, Model
from align.core.logprobs import Head
from align.learner import model_loading
from align.learner.adapters import add_lora, merged, unmerged
from align.learner.backbone import before_each_token, device_of
from align.learner.causal_head import read_head
from align.learner.checkpoint_names import renamed, renamed_alike
from align.learner.forward_mode import adapter_dropout, set_mode
from align.learner.parameters import BASE, OWN, Override
from align.types import TokenBatch
from align.vocabulary import generation
from align.vocabulary.ends import end_ids
from align.vocabulary.files import load_tokenizer
from align.vocabulary.spelled import Spelled
from align.weight_sync.layout import Layout


class Policy:
    """The policy's model. Every `parameters` argument replaces the trained parameters during one forward pass."""

    def __init__(self, model_dir: str, options: Model, where: str = "model.path"):
        self.model_dir, self.options = model_dir, options
        self.device = device_of(options)
        loaded = model_loading.load_causal_lm(model_dir, options, where)
        self.causal_lm = model_loading.on_device(loaded, self.device).eval()
        self.config = self.causal_lm.config
        self.tokenizer = load_tokenizer(model_dir, where)
        self._decoder, self._head, self._form = read_head(self.causal_lm, where)
        self.spelled = Spelled.of(self.tokenizer, len(self._head.weight))
        """The ids that `head` has rows for."""
        self._layout = Layout.of(self.causal_lm)
        if self.causal_lm.can_generate():
            saved = self.causal_lm.generation_config
            self.causal_lm.generation_config = generation.exported(saved, end_ids(self.tokenizer, saved.eos_token_id))
        self.lora = options.lora.rank > 0
        self._adapted = add_lora(self.causal_lm, options, "CAUSAL_LM") if self.lora else None
        self.module: torch.nn.Module = self.causal_lm if self._adapted is None else self._adapted
        names = {id(m): n for n, m in self.module.named_modules()}
        self._prefix = names[id(self._decoder)] + "."
        self._head_name = next(n for n, p in self.module.named_parameters() if p is self._head.weight)
        set_mode(self.causal_lm, self.module, options)

    def trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((n, p) for n, p in self.module.named_parameters() if p.requires_grad)

    def hidden(self, batch: TokenBatch, parameters: Override = OWN) -> Tensor:
        """The state that predicts each response token: [T, H]. `parameters`: OWN, BASE, or other values for the trained ones."""
        rows, columns = before_each_token(batch)
        # Padding is on the right and attention is causal, so no position attends to it and no mask is needed.
        call = {"input_ids": batch.input_ids[:, :-1], "use_cache": False}
        with self._adapter_off() if parameters is BASE else nullcontext():
            if isinstance(parameters, dict):
                # Cast to the precision of the replaced parameter: a reference may keep its values in float32.
                inside = {
                    n.removeprefix(self._prefix): parameters[n].to(p.dtype)
                    for n, p in self.trained()
                    if n in parameters and n.startswith(self._prefix)
                }
                out = functional_call(self._decoder, inside, kwargs=call)
            else:
                out = self._decoder(**call)
        return out.last_hidden_state[rows, columns]

    def head(self, parameters: Override = OWN) -> Head:
        """The rows of the ids that have a token. The row of a token is `spelled.places`."""
        layer = self._head
        given = parameters if isinstance(parameters, dict) else {}
        weight = given.get(self._head_name, layer.weight).to(layer.weight.dtype)
        bias = layer.bias
        if bias is not None:
            bias = given.get(self._head_name.removesuffix("weight") + "bias", bias).to(bias.dtype)
        return self.spelled.head(Head(weight=weight, bias=bias, scale=self._form.scale, softcap=self._form.softcap))

    def adapter_dropout(self) -> AbstractContextManager[None]:
        """`model.lora.dropout` is on inside, for an update's forward and backward pass; it is off everywhere else."""
        return adapter_dropout(self.module)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the checkpoint under its Hugging Face name, adapters merged; computed lazily."""
        own = merged(self.causal_lm, leave_out=self._layout.tied)
        return renamed(self.causal_lm, own) if self._layout.fused else own

    def alike(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors with the names, shapes, dtypes and devices of `tensors` but other values; nothing is computed."""
        own = unmerged(self.causal_lm, leave_out=self._layout.tied)
        return renamed_alike(self.causal_lm, own) if self._layout.fused else own

    def _adapter_off(self) -> AbstractContextManager[None]:
        assert self._adapted is not None, "BASE needs a model with an adapter"
        return self._adapted.disable_adapter()

    def export(self, folder: str | Path) -> None:
        """A Hugging Face folder that `from_pretrained` and vLLM load; with LoRA the merged model, the adapter beside it."""
        if self._adapted is not None:
            self._adapted.save_pretrained(str(Path(folder) / "adapter"))
        # save_pretrained itself gives tensors their checkpoint names.
        self.causal_lm.save_pretrained(folder, state_dict=dict(merged(self.causal_lm, leave_out=self._layout.tied)))
        self.tokenizer.save_pretrained(folder)
        if (own := Path(self.model_dir) / "tokenizer.json").is_file():
            # transformers' class may have added tokens when it loaded the tokenizer, which the embedding has no rows for.
            shutil.copyfile(own, Path(folder) / "tokenizer.json")

    # Used by references.

    def another(self, folder: str, where: str) -> Policy:
        """Another whole model, in this policy's precision. Raises UserError naming `where` if the folder has no model."""
        return Policy(folder, replace(self.options, lora=Lora(), activation_checkpointing=False), where)

    def initial(self) -> Policy:
        """The model this policy was loaded from, whole."""
        return self.another(self.model_dir, "model.path")

    def whole(self, folder: str, where: str) -> dict[str, Tensor]:
        """float32 values for every parameter of the whole model, from a folder of its architecture or an adapter on its initial model."""
        return self._placed(model_loading.whole_values(folder, self.model_dir, dict(self.causal_lm.named_parameters()), where))

    def adapter(self, folder: str, where: str) -> dict[str, Tensor]:
        """Values for this policy's adapter, from an adapter of its shape."""
        lora = self.options.lora
        return self._placed(model_loading.adapter_values(folder, dict(self.trained()), lora.alpha / lora.rank, where))

    def _placed(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in values.items()}

    is_adapter = staticmethod(model_loading.is_adapter)

    @torch.no_grad()
    def assign(self, values: Mapping[str, Tensor]) -> None:
        """Write over the parameters, each in its own precision."""
        for name, p in self.module.named_parameters():
            p.copy_(values[name])

    def content_hash(self, parameters: Override = OWN) -> str:
        """A hash, 16 hex digits, of the parameters that `parameters` selects."""
        if isinstance(parameters, dict):
            return model_loading.content_hash(parameters.items())
        return model_loading.content_hash((n, p) for n, p in self.module.named_parameters() if p.requires_grad is (parameters is not BASE))
