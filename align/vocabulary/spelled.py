"""The ids that a token of the tokenizer has. A model's vocabulary is often padded beyond them.

An id without a token is never drawn by an engine and has no row in the learner: both normalise over the same ids, so log-probs, entropies
and exact divergences of policy, references and engines are over the tokens alone. The model keeps the rows, and they get no gradient from
the head.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor


class HasRows(Protocol):
    """A layer with a row for each id: `align_kernels.Head`."""

    @property
    def weight(self) -> Tensor: ...

    @property
    def bias(self) -> Tensor | None: ...

    def _replace(self, **changes: Any) -> Self: ...


H = TypeVar("H", bound=HasRows)


class Spelled:
    """The ids below `width` that have a token. `ids`: int64 [n], increasing; the last is `width - 1`."""

    def __init__(self, ids: Tensor):
        self.ids, self.width = ids, int(ids[-1]) + 1
        self._hole = torch.ones(self.width, dtype=torch.bool)
        self._hole[ids] = False
        self.holes = int(self._hole.sum())
        self._place = torch.cumsum(~self._hole, 0) - 1

    @classmethod
    def of(cls, tokenizer: Any, rows: int) -> Spelled:
        """Of every token that the tokenizer's files have, added ones too, among the `rows` ids of a model."""
        absent = _added_on_loading(tokenizer)
        return cls(torch.tensor(sorted({i for token, i in tokenizer.get_vocab().items() if i < rows and token not in absent})))

    def missing(self, rows: int) -> int:
        """How many of a model's `rows` ids have no token."""
        return rows - len(self.ids)

    def logits(self, logits: Tensor) -> Tensor:
        """[N, V] to [N, width]: -inf at ids without a token, so that a softmax gives them 0."""
        logits = logits[:, : self.width]
        if not self.holes:
            return logits
        self._hole = self._hole.to(logits.device)
        return logits.masked_fill(self._hole, -torch.inf)

    def head(self, head: H) -> H:
        """A head with the rows of the n ids alone: without holes a view, so nothing is copied but, in a backward pass, its gradient."""
        if len(head.weight) == len(self.ids):
            return head
        rows = self.ids.to(head.weight.device) if self.holes else slice(self.width)
        return head._replace(weight=head.weight[rows], bias=None if head.bias is None else head.bias[rows])

    def places(self, tokens: Tensor) -> Tensor:
        """The row of `head` of each token, int64 in the shape of `tokens`. A token of another id has none: see `unknown`."""
        if not self.holes:
            return tokens
        self._place = self._place.to(tokens.device)
        return self._place[tokens]

    def unknown(self, tokens: Tensor) -> Tensor:
        """The ids among `tokens` (on the CPU) that no token has, each once."""
        found = tokens.unique()
        return found[~torch.isin(found, self.ids)]


def class_tokens(tokenizer: Any) -> frozenset[str]:
    """Tokens that transformers' class gives every tokenizer of its kind when it is loaded, and that have no role in this one."""
    defaults = {p.default for name, p in inspect.signature(type(tokenizer).__init__).parameters.items() if name.endswith("_token")}
    named = {tokenizer.eos_token, tokenizer.pad_token}
    if tokenizer.bos_token_id in tokenizer("")["input_ids"]:
        named.add(tokenizer.bos_token)
    return frozenset(str(token) for token in defaults - {None, inspect.Parameter.empty} if str(token) not in named)


def _added_on_loading(tokenizer: Any) -> frozenset[str]:
    candidates, folder = class_tokens(tokenizer), tokenizer.name_or_path
    file = Path(folder) / "tokenizer.json"
    if not candidates or not folder or not file.is_file():
        return frozenset()
    return candidates - Tokenizer.from_file(str(file)).get_vocab().keys()
