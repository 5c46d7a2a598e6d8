"""Algorithms: a kind of data, and the parts that make a loss of it. An algorithm has no regularizers: the recipe adds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from align.advantages import Advantage, charged
from align.config.formulas import Formulated, formula, unknown_needs
from align.config.needed_columns import GROUPS
from align.config.parts import Setting
from align.config.returned import LOSS, TOKEN, Returned
from align.contexts import RewardModelContext, TokenContext
from align.core.credit import Packing
from align.loss_weightings import LossWeighting
from align.reductions import Reduction
from align.surrogates import Surrogate
from align.types import Columns, TokenBatch

Context = TypeVar("Context", bound=TokenContext | RewardModelContext)
"""What a loss looks at: RewardModelContext where it trains a scorer."""
State = Mapping[str, Any]
"""What an algorithm remembers: JSON values."""
Advantages = TypeVar("Advantages", bound=Tensor | None)
"""None where a loss uses none."""


def at_first_tokens(of_answer: Tensor, batch: TokenBatch) -> Tensor:
    """One number an answer, [S], at its first token and 0 at the others: [T], whose sum over tokens is that over answers."""
    return torch.where(batch.positions == 0, of_answer[batch.seq_ids], 0.0)


def trained_in_loss(recipe: Any) -> bool:
    """Whether a regularizer of the recipe is in the loss, and not only measured there."""
    return any(r.placement == "loss" and not r.coefficient.always_zero(recipe.steps) for r in recipe.regularizers.values())


def policy_loss(surrogate: Surrogate, ctx: TokenContext, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The surrogate's loss of each token, [T], and how far the policy has moved."""
    returned, tokens = Returned(surrogate, "loss", "algorithm.surrogate"), len(ctx.logp)
    found = surrogate.loss(ctx.log_rho, advantages, Packing(ctx.batch.seq_ids, ctx.batch.positions))
    loss, cut = returned.pair(found, f"a pair: the loss, float32 [{tokens}], and where a bound cut it, bool [{tokens}]")
    returned.numbers(loss, tokens, LOSS)
    returned.flags(cut, tokens, "where a bound cut the gradient of a trained token")
    return loss, {"ratio/clipped": cut.float(), "ratio/mean": torch.exp(ctx.log_rho.detach())}


class Algorithm(Formulated, ABC, Generic[Context, Advantages]):
    """The contract."""

    stated = ("loss",)
    samples = True
    """Learns from the policy's own rollouts (needs an engine and a reward); else from what the task's data holds."""
    ranks = False
    """That data are answers ranked by preference: a group's sequences stand best first, and no group is split. Else demonstrations."""
    labels = False
    """Those data are labelled answers, good or bad: `batch.labels`, and `batch.score_baselines` from the method of that name."""
    mismatched = False
    """Beside the labelled answers a batch has as many to other prompts, which are scored and not trained."""
    revision: Any = None
    """A text, for rankings of two: each answer is shown again after each as a draft and this text (experience/drafts.py)."""
    links = False
    """Its loss is of `ctx.link`: exactly one regularizer is placed as the link."""
    distils = False
    """It has no loss of its own and asks for no reward: on the policy's own rollouts the regularizers alone are learned."""
    trains_reward_model = False
    """Trains a scorer, one number for a whole answer, instead of a policy: `loss` gets a RewardModelContext."""
    critic: Any = None
    """A Critic, trained beside the policy: `ctx.values`, `batch.values` and `targets`."""
    reference: Any = None
    """A Reference that the loss itself compares with, whatever the regularizers: `batch.ref_logp["algorithm"]`, [T], log ref."""
    advantage: Any = None
    """An Advantage, where the loss weighs tokens by one."""
    surrogate: Any = None
    """A Surrogate, where the loss is one of `advantage`."""
    reduction: Any
    """A Reduction."""
    row_fields = frozenset[str]()
    """Fields that every demonstration must have."""
    loss_weighting: Any = None
    """A LossWeighting, where examples or tokens do not count alike in the loss."""
    epochs: int = 1
    """Passes over each batch."""
    minibatches: int = 1
    """Optimizer steps in one pass."""

    @property
    def rescaled(self) -> float | None:
        """The temperature of `ctx.rescaled_logp`, as a factor on the recipe's own; None: there is none."""
        return None

    def advantages(self, batch: Columns) -> Tensor | None:
        """float32 [T] from the rewards of the whole batch; None where the loss uses none."""
        if self.advantage is None:
            return None
        advantages = self.advantage.advantages(batch.only(self.advantage.needs, self.advantage, "algorithm.advantage"))
        Returned(self.advantage, "advantages", "algorithm.advantage").finite(advantages, len(batch.seq_ids), TOKEN)
        return advantages if self.advantage.takes_charges or not batch.reward_penalties else advantages - charged(batch)

    def score_baselines(self, batch: TokenBatch, scores: Tensor, name: str) -> Tensor:
        """float32 [S], of a whole scored batch of labelled answers. Args: scores: [S], the link's at pi_old; name: the regularizer."""
        return torch.zeros_like(scores)

    def targets(self, batch: Columns) -> Tensor | None:
        """float32 [T], what a critic is fitted to; None without one."""
        if self.critic is None:
            return None
        # A return is one of rewards, whatever the advantage is made of.
        targets = self.advantage.returns(batch.only(self.advantage.needs | {"rewards"}, self.advantage, "algorithm.advantage"))
        return Returned(self.advantage, "returns", "algorithm.advantage").finite(targets, len(batch.seq_ids), TOKEN)

    def initial_state(self) -> State:
        """What the algorithm remembers between batches, as the run begins: JSON values, which a checkpoint holds."""
        return {}

    def state_for(self, state: State, batch: TokenBatch) -> State:
        """What this batch needs of the state: `batch.algorithm_state`. `batch`: as packed, with nothing computed."""
        return state

    def update_state(self, state: State, batch: Columns) -> State:
        """The state after a step on this (prepared) batch; a new one, `state` is never written into."""
        return state

    def measures(self, batch: Columns) -> dict[str, float]:
        """Metrics of the whole batch, shaped and scored."""
        return {}

    @abstractmethod
    def loss(self, ctx: Context, advantages: Advantages) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each token, [T], to be minimised, and statistics to be averaged, each one number a token, an answer or a pair.

        `advantages` are the batch's, minus what the reward-placed regularizers take. The loss of a whole answer stands at its first token.
        """

    def effective_log_ratio(self, ctx: TokenContext) -> Tensor | None:
        """log of what the loss multiplies an advantage by, [T], nats (see Surrogate); None: the token's own ratio pi/pi_old."""
        if self.surrogate is None:
            return None
        found = self.surrogate.effective_log_ratio(ctx.log_rho.detach(), Packing(ctx.batch.seq_ids, ctx.batch.positions))
        each = "the log of what the advantage of each trained token is multiplied by"
        return Returned(self.surrogate, "effective_log_ratio", "algorithm.surrogate").numbers(found, len(ctx.logp), each, detached=True)

    def symbols(self) -> dict[str, str]:
        return {} if self.advantage is None else {"A": formula(self.advantage)}

    def check(self) -> None:
        """Raises ValueError for a key every algorithm has in common; to be called by `__post_init__`."""
        for key, held in (("reduction", Reduction), ("advantage", Advantage), ("surrogate", Surrogate), ("loss_weighting", LossWeighting)):
            found = getattr(self, key, None)
            if not isinstance(found, held) and (found is not None or key == "reduction"):
                example = {"reduction": "token", "advantage": "group_standardised", "surrogate": "clipped", "loss_weighting": "kl_dro"}[key]
                raise ValueError(
                    f"{key} must be {'an' if key == 'advantage' else 'a'} {held.__name__}, not {found!r}: annotate the key as "
                    f'`{key}: Any = align.config.nodes.part("{key}", "{example}")`, which builds one'
                )
        for key in ("epochs", "minibatches"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, not {getattr(self, key)}")

    def parts(self) -> dict[str, Formulated]:
        """The parts it is a product of, by key."""
        held = {f.name: getattr(self, f.name) for f in fields(self) if "kind" in f.metadata}
        return {key: part for key, part in held.items() if isinstance(part, Formulated)}

    def misfit(self, setting: Setting) -> str | None:
        return unknown_needs(self)  # of its parts each has been asked

    @property
    def rewarded(self) -> bool:
        """Its samples are judged by a reward."""
        return self.samples and not self.distils

    @property
    def learns_from(self) -> str:
        """What its data are, in a word."""
        if self.distils:
            return "its regularizers alone"
        if self.samples:
            return "rollouts"
        return "rankings" if self.ranks else "labelled answers" if self.labels else "demonstrations"

    @property
    def reads(self) -> frozenset[str]:
        """What it and its parts read of the batch, of `types.EARLY`."""
        return self.needs.union(*(part.needs for part in self.parts().values()))

    @property
    def whole_groups(self) -> bool:
        """No micro-batch splits a group."""
        return self.ranks or GROUPS in self.reads

    @property
    def least_samples(self) -> int:
        """Answers to a prompt without which its advantages are 0."""
        return 1 if self.advantage is None else self.advantage.least_samples

    @property
    def has_advantages(self) -> bool:
        """Its loss weighs tokens by `advantages`."""
        return self.advantage is not None or type(self).advantages is not Algorithm.advantages

    @property
    def on_policy(self) -> bool:
        """Each batch is used for one update only: pi_theta is pi_old whenever a gradient is taken."""
        return self.epochs * self.minibatches == 1

    def penalises_on_policy(self, placement: str) -> bool:
        """A regularizer in this place only ever sees pi_old: on-policy, or where a critic learns it from the token rewards, taken once."""
        return self.on_policy or (self.critic is not None and placement == "reward")
