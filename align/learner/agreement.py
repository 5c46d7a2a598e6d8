"""The learner's model is the user's model: its log-probs (or rewards) are those of the model's own forward pass.

Checked on a few rows of the first batch before training, and on the exported folder after it. Before training the module in memory is
the user's model, so no second one is loaded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.config.schema import Recipe
from align.core.agreement import LIMITS, Limits, largest_gap
from align.errors import UserError
from align.learner import model_loading
from align.learner.budgets import Budgets
from align.learner.logprobs import stats
from align.learner.policy import Policy
from align.learner.reward_model import RewardModel
from align.types import TokenBatch

ROWS, COLUMNS = 4, 128
"""Most rows that are compared, and most tokens of each."""


def some_rows(batch: TokenBatch) -> TokenBatch:
    """The beginnings of a few rows, from the shortest to the longest; every token but the first of a row counts."""
    chosen = batch.totals.argsort()[torch.linspace(0, len(batch.totals) - 1, min(ROWS, len(batch.totals))).long()]
    totals = batch.totals[chosen].clamp(max=COLUMNS)
    lengths = totals - 1
    seq_ids = torch.repeat_interleave(torch.arange(len(chosen)), lengths)
    positions = torch.arange(len(seq_ids)) - (torch.cumsum(lengths, 0) - lengths)[seq_ids]
    return TokenBatch(
        input_ids=batch.input_ids[chosen, : int(totals.max())],
        totals=totals,
        lengths=lengths,
        seq_ids=seq_ids,
        positions=positions,
        columns=positions + 1,
        group_ids=torch.arange(len(chosen)),
    )


class Agreement:
    """The check of one model against its own forward pass. Args: rows: of `some_rows`; where: the key that names the model."""

    def __init__(self, recipe: Recipe, budgets: Budgets, policy: Policy | RewardModel, rows: TokenBatch, where: str):
        self._recipe, self._budgets, self._policy, self._where = recipe, budgets, policy, where
        self._rows = rows.to(policy.device)
        self.found: str | None = None
        """What the check before training saw, for messages."""

    @torch.no_grad()
    def stop_unless_the_models_own(self) -> None:
        """Raises UserError if two passes of the learner differ, or if they differ from the model's own forward."""
        model = _module(self._policy)
        first, second = self._learners(), self._learners()
        repeated, other = largest_gap(first, second), largest_gap(first, self._own(model))
        self.found = (
            f"the learner's {self._what} are those of the model's own forward (largest difference {other:.1e}), and two passes of the "
            f"learner differ by {repeated:.1e}"
        )
        name = type(model).__name__
        if repeated > self._limits.repeated:
            raise UserError(
                f"{self._where}: two passes of the learner over the same {len(first)} numbers differ by up to {repeated:.2e}, above "
                f"{self._limits.repeated:g} ({self._dtype}): the forward pass of {name} draws random numbers or keeps a state, in "
                "evaluation mode too. Use a model that does not"
            )
        if other > self._limits.other:
            raise UserError(
                f"{self._where}: the learner's {self._what} differ from those of the model's own forward by up to {other:.2e}, above "
                f"{self._limits.other:g} ({self._dtype}), and between two passes of the learner by {repeated:.2e}. Likely {name} reads "
                "padding or the other rows of a batch (attention that is not causal), or does more before or after its decoder than the "
                "learner does. Use a causal language model"
            )

    @torch.no_grad()
    def stop_unless_exported(self, folder: str) -> None:
        """Raises UserError if the model in `folder` has other log-probs than the learner."""
        first, second = self._learners(), self._learners()
        options = self._recipe.model
        if isinstance(self._policy, RewardModel):
            model = model_loading.load_reward_model(folder, options, "model", fresh=False)
        else:
            model = model_loading.load_causal_lm(folder, options, "model")
        exported = self._own(model_loading.on_device(model, _room_for(model, self._policy.device)).eval())
        other = largest_gap(first, exported.to(first.device))
        if other > self._limits.other:
            raise UserError(
                f"{folder}: the {self._what} of the exported model differ from the learner's by up to {other:.2e}, above "
                f"{self._limits.other:g} ({self._dtype}), and those of two passes of the learner by {largest_gap(first, second):.2e}. "
                f"Likely a tensor of {type(model).__name__} is saved under another name, shared with another one, or rounded when an "
                "adapter was merged. The last checkpoint holds the trained weights"
            )

    @property
    def _what(self) -> str:
        return "rewards" if isinstance(self._policy, RewardModel) else "log-probs"

    @property
    def _dtype(self) -> str:
        return "tf32" if self._recipe.model.tf32 else self._recipe.model.dtype

    @property
    def _limits(self) -> Limits:
        # TensorFloat-32 rounds factors nearly as coarsely.
        return LIMITS["bfloat16" if self._recipe.model.tf32 else self._recipe.model.dtype]

    def _learners(self) -> Tensor:
        """[T] log-probs, or [S] rewards: all rows in one padded batch, as in training."""
        if isinstance(self._policy, RewardModel):
            return self._policy.scores(self._rows)
        policy = self._policy
        return stats(self._recipe, self._budgets, policy.spelled, policy.hidden(self._rows), policy.head(), self._rows).logp

    def _own(self, model: PreTrainedModel) -> Tensor:
        """The same by the model's own forward: one row after another, without padding."""
        value: Callable[[Tensor, Tensor], Tensor] = _reward if isinstance(self._policy, RewardModel) else self._logp
        rows = [ids[None, :total].to(model.device) for ids, total in zip(self._rows.input_ids, self._rows.totals.tolist(), strict=True)]
        return torch.cat([value(model(input_ids=ids, use_cache=False).logits, ids) for ids in rows])

    def _logp(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Over the ids that have a token, which the learner normalises over."""
        assert isinstance(self._policy, Policy)
        logits = self._policy.spelled.logits(logits[0, :-1])
        logp = (logits.float() / self._recipe.sampling.temperature).log_softmax(-1)
        return logp.gather(1, ids[0, 1:, None])[:, 0]


def _reward(logits: Tensor, ids: Tensor) -> Tensor:
    return logits[0].float()


def _module(policy: Policy | RewardModel) -> PreTrainedModel:
    return policy.classifier if isinstance(policy, RewardModel) else policy.causal_lm


def _room_for(model: PreTrainedModel, device: torch.device) -> torch.device:
    """The learner's device if it has room for a second model and its activations, else the CPU."""
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    return device if free > 1.5 * sum(p.nbytes for p in model.parameters()) else torch.device("cpu")
