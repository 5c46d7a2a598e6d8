"""Two turns of one token with an environment's random answer between them, enumerated in float64: objectives and penalties are exact.

Every episode a1 -> e -> a2 is a real `Episode`, packed as a run packs it. The exact values are sums over the tree: the policy draws a1
and a2, the environment draws e with a probability that no policy has a part in, so it cancels in every ratio of policies.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from helpers import built
from helpers.enumeration import NAME, gradient, state_divergence
from torch import Tensor
from unit.regularizer_oracles.cells import DIVERGENCES, ESTIMATORS, UNBIASED, assert_close, composed, expected_gradient

from align.contexts import TokenContext
from align.core.logprobs import Compared, Head, token_stats
from align.experience.packing import pack
from align.types import Episode, Group, Prompt, Rewards, Segment

V, ANSWERS = 3, 2
STATES = [(), *product(range(V), range(ANSWERS))]
"""Before the first turn, and after it and each answer."""
EPISODES = list(product(range(V), range(ANSWERS), range(V)))
A1, E, A2 = torch.tensor(EPISODES).unbind(1)
SECOND = torch.tensor([STATES.index((a, e)) for a, e, _ in EPISODES])
TOOL = 1000
"""Ids of the answers, which no policy has a probability for."""


def table(seed: int) -> Tensor:
    return torch.randn(len(STATES), V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PI, REF, OLD = table(1), table(2), table(1) + 0.5 * table(3)
ENVIRONMENT = torch.softmax(torch.randn(V, ANSWERS, generator=torch.Generator().manual_seed(4), dtype=torch.float64), -1)
"""The probability of an answer after a first turn."""


def policy_logp(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of the first and second turn of each episode."""
    logp = torch.log_softmax(logits, -1)
    return logp[0, A1], logp[SECOND, A2]


def probability(logits: Tensor) -> Tensor:
    first, second = policy_logp(logits)
    return first.exp() * ENVIRONMENT[A1, E] * second.exp()


def reach(logits: Tensor) -> Tensor:
    first = torch.softmax(logits[0], -1)
    return torch.cat([torch.ones(1, dtype=torch.float64), (first[:, None] * ENVIRONMENT).flatten()])


def group() -> Group:
    def said(token: int) -> Segment:
        return Segment(role="assistant", token_ids=np.int32([token]), trained=True, logp=np.float32([0]), versions=((0, 1),))

    def heard(answer: int) -> Segment:
        return Segment(role="tool", token_ids=np.int32([TOOL + answer] * (1 + answer)), trained=False)

    episodes = tuple(Episode(segments=(said(a), heard(e), said(b)), text="") for a, e, b in EPISODES)
    return Group(prompt=Prompt(id="0", text="", token_ids=(TOOL,)), episodes=episodes)


def context(logits: Tensor, old: Tensor | None, rewards: Rewards | None = None, cell=None) -> TokenContext:
    """The learner's view of all episodes, each weighed by its probability under the policy that drew it."""
    states = torch.stack([torch.zeros_like(SECOND), SECOND], 1).flatten()
    behaviour, packed = logits.detach() if old is None else old, pack([group()], rewards)
    of_tokens = lambda x: torch.stack(policy_logp(x), 1).flatten()  # noqa: E731
    batch = replace(
        packed,
        sampler_logp=None,
        old_logp=None if old is None else of_tokens(old),
        ref_logp={NAME: of_tokens(REF)},
        loss_weights=probability(behaviour)[packed.seq_ids],
        penalty_weights={NAME: torch.ones(len(packed.seq_ids), dtype=torch.float64)},
        step_rewards=None if packed.step_rewards is None else packed.step_rewards.double(),
    )
    hidden = torch.eye(len(STATES), dtype=torch.float64)[states]
    exact = cell is not None and ESTIMATORS[cell[1]].full_vocabulary
    compared = {NAME: Compared(DIVERGENCES[cell[0]][0], hidden, Head(REF.T), ESTIMATORS[cell[1]].outcomes)} if exact else {}
    stats = token_stats(hidden, Head(logits.T), batch.tokens, compared=compared)
    return TokenContext(batch=batch, logp=stats.logp, entropy=stats.entropy, exact=stats.exact)


def objective(cell, logits: Tensor, old: Tensor | None) -> Tensor:
    """The divergence that a cell claims, from the definition."""
    f, credit = DIVERGENCES[cell[0]][1], cell[3]
    if credit == "sequence":  # of the distributions of whole episodes: the environment's probability cancels in the ratio
        base = probability(REF)
        return (base * f(probability(logits) / base)).sum()
    visited = reach(logits) if credit == "summed" else reach(logits if old is None else old).detach()
    return (visited * state_divergence(f, logits, REF)).sum()


CELLS = [c for c in UNBIASED if c[0] in ("reverse_kl", "forward_kl", "jensen_shannon") and c[1] in ("sampled", "exact")]


def test_the_cells_are_those_that_matter():
    kinds = {c[1:] for c in CELLS if c[0] == "reverse_kl"}
    assert {("exact", "loss", "local", "on"), ("exact", "loss", "summed", "on"), ("sampled", "reward", "summed", "on")} <= kinds
    assert {("sampled", "loss", "sequence", "off"), ("sampled", "reward", "local", "off")} <= kinds and len(CELLS) > 40


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_penalty_is_the_divergence_it_claims(cell):
    leaf, old = PI.clone().requires_grad_(), None if cell[4] == "on" else OLD
    ctx = context(leaf, old, cell=cell)
    penalty = composed(cell).penalty(ctx, NAME)
    assert_close(expected_gradient(ctx, leaf, penalty), gradient(lambda x: objective(cell, x, old), PI))
    assert_close((ctx.batch.loss_weights * penalty.value).sum(), objective(cell, PI, old))


def test_the_kl_of_episodes_is_that_of_the_policys_tokens():
    """The chain rule: the environment adds nothing, and the second turn's divergence counts where the first turn leads."""
    cell = ("reverse_kl", "exact", "loss", "summed", "on")
    assert_close(objective(cell, PI, None), objective(("reverse_kl", "sampled", "loss", "sequence", "on"), PI, None))
    pull = gradient(lambda x: objective(cell, x, None) - objective(("reverse_kl", "exact", "loss", "local", "on"), x, None), PI)
    assert pull[0].abs().max() > 1e-2 and pull[1:].abs().max() < 1e-12, "summed credit reaches the first turn, and local does not"


REWARDS = torch.randn(V, ANSWERS, V, generator=torch.Generator().manual_seed(5), dtype=torch.float64)[A1, E, A2]
FIRST = torch.randn(V, ANSWERS, generator=torch.Generator().manual_seed(6), dtype=torch.float64)[A1, E]
"""What the environment gives for the first turn, a part of `REWARDS`."""


def rewards(turns: bool) -> Rewards:
    paid = tuple((float(x), 0.0) for x in FIRST) if turns else ()
    return Rewards(values=REWARDS.numpy().astype(np.float32), turn_rewards=paid)


@pytest.mark.parametrize("advantage", ["group_centred", "leave_one_out", "gae"])
@pytest.mark.parametrize("turns", [False, True])
def test_the_policy_gradient_is_that_of_the_expected_reward(advantage: str, turns: bool):
    """Of REINFORCE with a baseline over the group, and with a critic of values 0, where rewards of turns are paid inside."""
    algorithm = built.algorithm("grpo", surrogate="reinforce")
    part = built.part("advantage", advantage, **({"lam": 1.0, "whiten": False} if advantage == "gae" else {}))
    leaf = PI.clone().requires_grad_()
    ctx = context(leaf, None, rewards(turns))
    batch = replace(ctx.batch, rewards=REWARDS, values=torch.zeros_like(ctx.logp).detach())
    given = part.advantages(batch).double()
    loss = (batch.loss_weights * algorithm.loss(replace(ctx, batch=batch), given)[0]).sum()
    (found,) = torch.autograd.grad(loss, leaf)
    exact = gradient(lambda x: -(probability(x) * REWARDS).sum(), PI)
    # leave-one-out scales a centred reward by n / (n - 1)
    scale = len(EPISODES) / (len(EPISODES) - 1) if advantage == "leave_one_out" else 1.0
    assert exact.abs().max() > 1e-2 and (found - scale * exact).abs().max() < 1e-6
    if advantage == "gae":  # the second turn answers for what comes after it alone
        second = given.view(-1, 2)[:, 1]
        assert (second - (REWARDS - FIRST if turns else REWARDS)).abs().max() < 1e-6
