"""The policy's own head as a reference holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.core.logprobs import Head

if TYPE_CHECKING:
    from align.learner.policy import Policy


def taken(policy: Policy) -> Head:
    """A copy without gradient where the head is trained: an update must not write into what a batch was scored with."""
    head = policy.head()
    if not head.weight.requires_grad:
        return head
    return head._replace(weight=head.weight.detach().clone(), bias=None if head.bias is None else head.bias.detach().clone())
