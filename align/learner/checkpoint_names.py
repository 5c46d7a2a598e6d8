"""Tensors under the names of the Hugging Face checkpoint, which are others than those in memory for some architectures.

transformers keeps the experts of a mixture in one tensor and renames layers of older checkpoints; its own conversion, reverted, gives
what it would save. Tensors are converted a layer at a time, so that only one layer has a copy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

LAYER = re.compile(r"^.*?\.\d+\.")
"""What the names of a layer's tensors begin with. No conversion of transformers joins tensors of two layers."""


def renamed(model: PreTrainedModel, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The same tensors under their checkpoint names, split or joined as there. Args: tensors: in the order of a state dict."""
    for _, layer in groupby(tensors, lambda item: found[0] if (found := LAYER.match(item[0])) else ""):
        yield from revert_weight_conversion(model, dict(layer)).items()


def renamed_alike(model: PreTrainedModel, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the names, shapes, dtypes, devices and order of `renamed` but of other values, in no memory of their own."""
    tensors = list(tensors)
    device = tensors[0][1].device
    for name, t in renamed(model, ((n, t.to("meta")) for n, t in tensors)):
        yield name, torch.empty((), dtype=t.dtype, device=device).expand(t.shape)
