"""What a loss may look at: the arguments of an algorithm's, likelihood's, preference's or regularizer's loss inside the learner.

Shapes and units as in align.types: S sequences, T trained tokens of all sequences packed end to end, log-probs in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from align.types import TokenBatch
from align.undeclared import Undeclared


@dataclass(frozen=True, kw_only=True)
class Link:
    """The regularizer as the link of a preference loss: beta * scores is the implicit reward of each answer (up to its prompt).

    Example: KL(pi||ref) and two answers.
        >>> scores = torch.tensor([0.5, -1.0], requires_grad=True)
        >>> link = Link(scores=scores, log_ratio=scores.detach(), beta=torch.full((2,), 0.5))
        >>> (link.beta * link.scores).tolist()
        [0.25, -0.5]
    """

    scores: Tensor
    """float32 [S], f'(u) - f'(1) at u = pi/ref of the whole answer, differentiable; for KL(pi||ref) the log-ratio itself."""
    log_ratio: Tensor
    """float32 [S], log pi/ref of the whole answer, nats, detached."""
    beta: Tensor
    """float32 [S]."""


@dataclass(frozen=True, kw_only=True)
class RewardModelContext:
    """What the loss of an algorithm that trains a scorer may look at: one micro-batch and its fresh scores.

    Example: the two answers to a prompt, the better one first; Bradley-Terry's loss is -log sigmoid of the difference of their scores.
        >>> pair = tuple(Episode.single_turn(np.int32([token]), text) for token, text in ((5, "2"), (6, "3")))
        >>> batch = pack([Group(prompt=Prompt(id="7", text="1+1=", token_ids=(3, 5, 3, 9)), episodes=pair)], None)
        >>> ctx = RewardModelContext(batch=batch, scores=torch.tensor([1.5, 0.5], requires_grad=True))
        >>> round(-(ctx.scores[0] - ctx.scores[1]).sigmoid().log().item(), 4)
        0.3133
    """

    batch: TokenBatch
    scores: Tensor
    """float32 [S], one number an answer, differentiable."""


@dataclass(frozen=True, kw_only=True)
class TokenContext:
    """What a loss may look at inside the learner: one micro-batch and the policy's fresh log-probs of its tokens.

    Example: one answer of two tokens, before the first update: the ratio pi_theta/pi_old is 1, and its gradient is that of log pi.
        >>> answer = Episode.single_turn(np.int32([5, 2]), "2", logp=np.float32([-0.5, -0.25]))
        >>> batch = pack([Group(prompt=Prompt(id="7", text="1+1=", token_ids=(3, 5, 3, 9)), episodes=(answer,))], None)
        >>> ctx = TokenContext(batch=batch, logp=torch.tensor([-0.5, -0.25], requires_grad=True), entropy=torch.ones(2))
        >>> ctx.log_rho.exp().tolist(), ctx.log_rho.requires_grad
        ([1.0, 1.0], True)
    """

    batch: TokenBatch
    logp: Tensor
    """float32 [T], log pi of the sampled tokens; gradients flow through it, and through `exact`, `values` and `link.scores`."""
    entropy: Tensor
    """float32 [T], nats, detached."""
    rescaled_logp: Tensor | None = None
    """float32 [T], log pi at the temperature that a likelihood asks for in `rescaled`, differentiable; None where it asks for none."""
    exact: Mapping[str, Tensor] = field(default_factory=dict)
    """float32 [T] by regularizer: the full-vocabulary divergence at each visited state, differentiable."""
    values: Tensor | None = None
    """float32 [T], the critic's V of the state before each token, differentiable; None where there is no critic."""
    link: Link | None = None
    """Where a regularizer is placed as the link of a preference loss."""
    surrogate_log_ratio: Tensor | None = None
    """float32 [T], nats, detached: the log of what the algorithm's loss multiplies an advantage by; None: the token's own ratio."""

    @property
    def old_logp(self) -> Tensor:
        """float32 [T], log pi_old; on-policy, and of a part that does not declare it, it is the policy's own log-prob, detached."""
        known = self.batch.old_logp
        return self.logp.detach() if known is None or isinstance(known, Undeclared) else known

    @property
    def log_rho(self) -> Tensor:
        """float32 [T], log pi_theta/pi_old, gradient through pi_theta."""
        return self.logp - self.old_logp
