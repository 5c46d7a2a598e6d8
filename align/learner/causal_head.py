"""The way from a decoder's states to logits, read from the model's own forward pass.

Configurations name multipliers and caps in many ways, and two of them may use one name for opposite things (`logits_scaling` divides in
Granite and multiplies in HyperCLOVA X). So known values are put in place of the states and of the head's outputs, in float32, and the
logits that the model returns for them decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.core.head_form import SIZES, HeadForm, fit, probes
from align.errors import UserError


def read_head(model: PreTrainedModel, where: str) -> tuple[torch.nn.Module, torch.nn.Linear, HeadForm]:
    """The decoder, the head and what the model does around the head: logits = cap(scale * head(state)).

    Args: model: in evaluation mode, without adapters.
    Raises UserError at the key `where` for a model that has no such form, naming its architecture and what was seen.
    """
    name, versions = type(model).__name__, {n: p._version for n, p in model.named_parameters()}
    decoder, head = _decoder(model), model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or decoder is None:
        raise UserError(f"{where}: {name} cannot be trained: it is not one decoder followed by one linear head")
    try:
        sent, received, outputs, logits = _probed(model, decoder, head)
    except Exception as error:
        # A model's own code raises anything.
        first, *_ = str(error).strip().splitlines() or [""]
        raise UserError(
            f"{where}: {name} cannot be trained: its forward pass fails where its states or its head's outputs are replaced by others "
            f"({type(error).__name__}: {first})"
        ) from error
    written = [n for n, p in model.named_parameters() if p._version != versions[n]]
    if written:
        raise UserError(
            f"{where}: {name} cannot be trained: its forward pass writes into its own weights, {len(written)} of them, the first "
            f"{written[0]}"
        )
    before = fit(sent, received) if received.shape == sent.shape else None
    if before is None or before.softcap is not None:
        raise UserError(
            f"{where}: {name} cannot be trained: between its decoder and its head it does more than multiply by a number: "
            f"{_seen(sent, received)}. The learner computes log-probs from the decoder's states"
        )
    after = fit(outputs, logits) if logits.shape == outputs.shape else None
    if after is None:
        raise UserError(
            f"{where}: {name} cannot be trained: its logits are not its head's outputs times a number, with or without a soft cap "
            f"c tanh(x / c): {_seen(outputs, logits)}"
        )
    if before.scale != 1 and head.bias is not None:
        raise UserError(f"{where}: {name} cannot be trained: it multiplies the states by {before.scale:g} before a head with a bias")
    return decoder, head, HeadForm(before.scale * after.scale, after.softcap)


def _decoder(model: PreTrainedModel) -> torch.nn.Module | None:
    decoder = model.get_decoder()
    if decoder is not model:
        return decoder
    # Of a model whose decoder has a name that transformers does not look for (Llama 4).
    return next((child for child in model.children() if isinstance(child, PreTrainedModel)), None)


@torch.no_grad()
def _probed(model: PreTrainedModel, decoder: torch.nn.Module, head: torch.nn.Linear) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Given to the layers before the head, received by the head, given to the layers after it, returned: [5, width] each, float32."""
    sent, outputs = (probes(width).to(head.weight.device) for width in (head.in_features, head.out_features))
    received: list[Tensor] = []

    def replace_states(module: torch.nn.Module, args: Any, result: Any) -> Any:
        result.last_hidden_state = sent[None]
        return result

    def take_states(module: torch.nn.Module, args: Any) -> tuple[Tensor]:
        received.append(args[0])
        return (args[0].to(head.weight.dtype),)

    def replace_outputs(module: torch.nn.Module, args: Any, result: Any) -> Tensor:
        return outputs[None]

    with ExitStack() as hooks:
        hooks.enter_context(_removed(decoder.register_forward_hook(replace_states)))
        hooks.enter_context(_removed(head.register_forward_pre_hook(take_states)))
        hooks.enter_context(_removed(head.register_forward_hook(replace_outputs)))
        ids = torch.arange(len(SIZES), device=head.weight.device)[None] % head.out_features
        logits = model(input_ids=ids, use_cache=False).logits
    if len(received) != 1:
        raise ValueError(f"the head is called {len(received)} times")
    return sent, received[0][0], outputs, logits[0]


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _seen(given: Tensor, found: Tensor) -> str:
    if given.shape != found.shape:
        return f"the shape {list(given.shape)} becomes {list(found.shape)}"
    pairs = ", ".join(f"{x:.4g} becomes {y:.4g}" for x, y in zip(given[:, 0].tolist(), found[:, 0].tolist(), strict=True))
    return f"of the first value of each row, {pairs}"
