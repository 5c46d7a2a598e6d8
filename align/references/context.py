from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from align.config.nodes import part
from align.config.parts import Setting
from align.core.logprobs import Head
from align.learner.parameters import Override
from align.references import Reference, RunningReference

if TYPE_CHECKING:
    from align.learner.policy import Policy
    from align.types import TokenBatch


@dataclass(frozen=True)
class Context(Reference):
    """Another reference after a longer prompt: the policy is held to what it, or its teacher, answers when it is told more.

    Context distillation (Askell et al. 2112.00861; prompt distillation, Snell et al. 2209.15189): `prepend` holds instructions, and the
    policy learns to follow them without. The reference has no gradient. `{name: context, prepend: "In one word: ", of: behaviour}` is the
    policy of the batch's start that reads them.
    """

    starts_at_policy = False

    prepend: str
    """Text before every prompt, behind the beginning-of-text token where the prompt has one. As it is: no chat template is applied."""
    of: Any = part("reference", "frozen")
    """The reference that reads it."""

    def __post_init__(self):
        if not self.prepend:
            raise ValueError("prepend must not be empty: without it this is the reference it is made of")

    @property
    def changes(self) -> bool:
        return self.of.changes

    def refuse(self, setting: Setting) -> str | None:
        if self.of.tokens_only or self.of.precomputes:
            return "of must be a reference that reads prompts, and this one gives the log-probs of the sampled tokens alone"
        return None

    def start(self, policy: Policy) -> RunningReference:
        return _AfterMore(policy, self.of.start(policy), self.prepend)

    def holds(self, lora: bool) -> str:
        return self.of.holds(lora)

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        return self.of.bytes_held(trained, whole, width, lora)


class _AfterMore(RunningReference):
    def __init__(self, policy: Policy, of: RunningReference, text: str):
        super().__init__(policy)
        self._of, self._text = of, text
        self._ids = torch.tensor(policy.tokenizer(text, add_special_tokens=False)["input_ids"], device=policy.device)
        self._begin = policy.tokenizer.bos_token_id

    @property
    def version(self) -> int:
        return self._of.version

    @version.setter
    def version(self, value: int) -> None:
        self._of.version = value

    @property
    def model(self) -> Policy:
        return self._of.model

    def parameters(self) -> Override:
        return self._of.parameters()

    def hidden(self, micro: TokenBatch) -> Tensor:
        return self._of.hidden(self._longer(micro))

    def head(self) -> Head:
        return self._of.head()

    def _longer(self, micro: TokenBatch) -> TokenBatch:
        rows, more = len(micro.input_ids), len(self._ids)
        begins = torch.zeros(rows, dtype=torch.int64, device=micro.input_ids.device)
        if self._begin is not None:
            begins = (micro.input_ids[:, 0] == self._begin).long()
        at = torch.arange(micro.input_ids.shape[1] + more, device=micro.input_ids.device).expand(rows, -1)
        added = (at >= begins[:, None]) & (at < begins[:, None] + more)
        before = at < begins[:, None]
        old = torch.where(before, at, at - more).clamp_min(0)
        new = (at - begins[:, None]).clamp(0, more - 1)
        ids = torch.where(added, self._ids[new], micro.input_ids.gather(1, old))
        return replace(micro, input_ids=ids, columns=micro.columns + more, totals=micro.totals + more)

    def before_batch(self) -> None:
        self._of.before_batch()

    def after_step(self, step: int) -> None:
        self._of.after_step(step)

    def content_hash(self) -> str:
        return hashlib.blake2b(f"{self._text} {self._of.content_hash()}".encode(), digest_size=8).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        return self._of.state_dict()

    def restore(self, version: int, state: dict[str, Any]) -> None:
        self._of.restore(version, state)
