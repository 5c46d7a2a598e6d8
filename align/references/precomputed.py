from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from align.cache import cache_folder
from align.learner.parameters import BASE, OWN, Override
from align.references import Reference, RunningReference

if TYPE_CHECKING:
    from align.learner.policy import Policy
    from align.types import TokenBatch


@dataclass(frozen=True)
class Precomputed(Reference):
    """The initial policy, asked once: its log-probs of every ranked answer are computed before the first step, and the model is dropped.

    They are kept on disk under the hash of the model, the temperature and the answers, so that another run on the same data reads
    them. For preferences, whose answers are known beforehand; of a divergence over the vocabulary they say nothing.
    """

    precomputes = True
    tokens_only = True

    def start(self, policy: Policy) -> RunningReference:
        return _Known(policy)

    def holds(self, lora: bool) -> str:
        return "the answers' log-probs; a whole model while they are computed, once for each model and data"

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        return whole * width  # while the log-probs are computed


class _Known(RunningReference):
    def __init__(self, policy: Policy):
        super().__init__(policy)
        self._hash = policy.content_hash(BASE if policy.lora else OWN)
        self._initial: Policy | None = None
        self._known: dict[bytes, Tensor] = {}

    def precompute(self, batch: TokenBatch, temperature: float, logp: Callable[[], Tensor]) -> bool:
        """Know the answers of a batch, from disk or by `logp`, which scores it: [T]. Returns whether they had to be computed."""
        keys = _keys(batch)
        content = hashlib.sha256(f"{self._hash} {temperature} {torch.__version__}".encode() + b"".join(keys))
        file = cache_folder() / "reference_logp" / f"{content.hexdigest()[:32]}.safetensors"
        found = _read(file, int(batch.lengths.sum()))
        flat = logp() if found is None else found
        if found is None:
            _write(file, flat)
        self._known |= zip(keys, flat.split(batch.lengths.tolist()), strict=True)
        return found is None

    def known(self, micro: TokenBatch) -> Tensor | None:
        keys = _keys(micro)
        return torch.cat([self._known[key] for key in keys]) if all(key in self._known for key in keys) else None

    @property
    def model(self) -> Policy:
        if self._initial is None:
            self._initial = self.policy.initial()
        return self._initial

    def release(self) -> None:
        """Let go of the model: everything that will be asked is known."""
        self._initial = None

    def parameters(self) -> Override:
        return OWN

    def compute_hash(self) -> str:
        return self._hash


def _keys(batch: TokenBatch) -> list[bytes]:
    """Of each sequence: its trained columns, and its tokens."""
    rows = zip(batch.input_ids, batch.totals.tolist(), batch.columns.split(batch.lengths.tolist()), strict=True)
    return [hashlib.sha256(f"{columns.tolist()} ".encode() + ids[:end].numpy().tobytes()).digest() for ids, end, columns in rows]


def _read(file: Path, tokens: int) -> Tensor | None:
    """The log-probs in a file: [tokens]. None if there is no file, or a damaged one, which is computed again."""
    try:
        with safe_open(file, "pt") as opened:
            logp, metadata = opened.get_tensor("logp"), opened.metadata() or {}
    except (OSError, SafetensorError):
        return None
    return logp if logp.shape == (tokens,) and metadata.get("sha256") == _digest(logp) else None


def _digest(logp: Tensor) -> str:
    return hashlib.sha256(logp.numpy().tobytes()).hexdigest()


def _write(file: Path, logp: Tensor) -> None:
    """Whole or not at all: two runs may compute the same at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}")
    plain = logp.detach().cpu().contiguous()
    save_file({"logp": plain}, unfinished, metadata={"sha256": _digest(plain)})
    unfinished.replace(file)
