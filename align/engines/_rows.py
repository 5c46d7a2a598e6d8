"""The key/value cache of unfinished sequences, and attention over it.

transformers' own cache copies everything at each token (it concatenates) and whenever a row is dropped. This cache writes tokens in
place and overwrites a finished row with the last live row.

Shapes: N live rows, H key heads, L tokens so far, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ROOM = 32
"""Least number of tokens by which a buffer grows."""
ATTENTION = "align_decode"


class RowLayer(DynamicLayer):
    """One layer's keys and values [N, H, L, D], views of larger buffers.

    A sliding-window layer keeps all its tokens too: the mask applies the window, and rows with different padding stay aligned.
    """

    def __init__(self, is_sliding: bool):
        super().__init__()
        self.is_sliding = is_sliding

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self._buffers = (key_states[:, :, :0], value_states[:, :, :0])
        self._show(len(key_states), 0)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, _, start, _ = self._live[0].shape
        end = start + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            self._allocate(copies=1, room=end - start)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:rows, :, start:end] = new
        self._show(rows, end)
        return self._live

    def repeat(self, copies: int) -> None:
        """Repeat every row `copies` times; the copies are adjacent."""
        self._allocate(copies, room=1)

    def keep(self, order: Tensor, holes: Tensor) -> None:
        """Rows become `order`, which differs from 0, 1, 2, ... in `holes` only."""
        moved, length = order[holes], self._live[0].shape[2]
        for buffer in self._buffers:
            buffer[holes, :, :length] = buffer[moved, :, :length]
        self._show(len(order), length)

    def _allocate(self, copies: int, room: int) -> None:
        keys, values = self._live
        rows, _, length, _ = keys.shape
        room = max(room, ROOM, length // 2)
        self._buffers = (_grown(keys, copies, room), _grown(values, copies, room))
        self._show(rows * copies, length)

    def _show(self, rows: int, length: int) -> None:
        keys, values = self._buffers
        self._live = (keys[:rows, :, :length], values[:rows, :, :length])
        self.keys, self.values = self._live


def _grown(old: Tensor, copies: int, room: int) -> Tensor:
    rows, heads, length, size = old.shape
    new = old.new_empty(rows, copies, heads, length + room, size)
    new[:, :, :, :length] = old[:, None]
    return new.flatten(0, 1)


class RowCache(DynamicCache):
    """A transformers cache that repeats and drops rows cheaply.

    Layers without attention over past tokens (a recurrent state) keep transformers' own cache.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config=config)
        self.layers = [
            RowLayer(layer.is_sliding) if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) else layer for layer in self.layers
        ]

    def repeat(self, rows: int, copies: int, device: torch.device) -> None:
        """Turn the one row of each prompt into `copies` adjacent rows."""
        repeated = torch.arange(rows, device=device).repeat_interleave(copies)
        for layer in self.layers:
            layer.repeat(copies) if isinstance(layer, RowLayer) else _reorder(layer, repeated)

    def keep(self, order: Tensor, holes: Tensor) -> None:
        """Rows become `order`, which differs from 0, 1, 2, ... in `holes` only."""
        for layer in self.layers:
            layer.keep(order, holes) if isinstance(layer, RowLayer) else _reorder(layer, order)


def _reorder(layer: CacheLayerMixin | LinearAttentionCacheLayerMixin, order: Tensor) -> None:
    layer.reorder_cache(order)  # pyright: ignore[reportArgumentType]  # transformers says LongTensor, which no tensor is an instance of


def decode_attention(
    module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, None]:
    """transformers' sdpa attention. For one new token, query heads that share a key head become the queries of one head.

    With a mask, transformers would instead copy keys and values for each query head at every token.
    """
    rows, heads, tokens, size = query.shape
    shared = key.shape[1]
    if tokens > 1 or heads == shared or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    out = scaled_dot_product_attention(
        query.reshape(rows, shared, heads // shared, size), key, value, attn_mask=attention_mask, scale=scaling
    )
    return out.reshape(rows, 1, heads, -1), None


AttentionInterface.register(ATTENTION, decode_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
