"""The whole product divergence x estimator x placement x credit x {on, off policy}, and the exact objective each cell claims, in float64.

A cell is refused, or its expected gradient is that of the objective it claims: on trees of three tokens (with and without an
end token) and single tokens, every placement and credit, on- and off-policy. In the reward it enters through the unclipped
surrogate `-rho (A - penalty)`, which weighs each token by its own ratio.

Off-policy means answers drawn from pi_old != pi_theta, weighed by pi_old; or from an engine mu that is neither.
"""

from __future__ import annotations

from itertools import product

import torch
from helpers.definitions import every
from helpers.enumeration import Problem, local_objective, sequence_objective, summed_objective
from torch import Tensor

from align.audit.default_recipe import default_recipe
from align.coefficients.constant import Constant
from align.config.refusals import Refusal, regularizer_refusal
from align.config.registry import _complete
from align.contexts import TokenContext
from align.estimators.abs import Abs
from align.estimators.exact import Exact
from align.estimators.k1 import K1
from align.estimators.k2 import K2
from align.estimators.k3 import K3
from align.estimators.sampled import Sampled
from align.estimators.straight_through import StraightThrough
from align.estimators.top_k import TopK
from align.regularizers import Penalty
from align.regularizers.composed import Composed
from align.weightings.uniform import Uniform


class SquaredHellinger:
    """What a user writes: f alone, on no base class."""

    def f(self, log_u):
        return (torch.exp(log_u / 2) - 1) ** 2


DIVERGENCES = {name: (known.divergence, known) for name, known in every(settings=2).items()} | {
    "users_own": (_complete(SquaredHellinger, "divergence", "own")(), lambda u: (u.sqrt() - 1) ** 2)
}
"""Every file of the room, and f of the ratio as its paper writes it."""
NO_EXPECTATION = {"renyi_0.5", "renyi_2"}
"""Functions of a divergence at each state."""
ESTIMATORS = {
    "sampled": Sampled(),
    "exact": Exact(),
    "top_2": TopK(k=2),
    "k1": K1(),
    "k2": K2(),
    "k3": K3(),
    "abs": Abs(),
    "k1+": StraightThrough(of="k1"),
    "k3+": StraightThrough(of="k3"),
    "abs+": StraightThrough(of="abs"),
}
UNIFORM = Uniform()
"""One object, so that forms are equal and judged once."""
OF_KL = ("k1", "k2", "k3", "abs", "k1+", "k3+", "abs+")
OF_ANY = ("sampled", "exact", "top_2")
PLUS = ("k1+", "k3+", "abs+")
"""Published without an importance ratio and for KL(pi||ref) alone; with one and for every divergence; straight-through."""
PLACEMENTS = ("loss", "reward")
CREDITS = ("local", "summed", "sequence")
POLICIES = ("on", "off")
CELLS = list(product(DIVERGENCES, ESTIMATORS, PLACEMENTS, CREDITS, POLICIES))

MEANINGLESS = {
    *product(set(DIVERGENCES) - {"reverse_kl"}, OF_KL, PLACEMENTS, CREDITS, POLICIES),
    *product(DIVERGENCES, ("exact", "top_2"), ("reward",), CREDITS, POLICIES),
    *product(DIVERGENCES, ("exact", "top_2"), ("loss",), ("sequence",), POLICIES),
    *product(("reverse_kl",), OF_KL, ("loss",), ("summed",), POLICIES),
    *product(("reverse_kl",), PLUS, ("reward",), CREDITS, POLICIES),
    *product(NO_EXPECTATION, ("sampled",), PLACEMENTS, CREDITS, POLICIES),
}
"""Refused, whatever the recipe says."""
BIASED = {
    *product(("reverse_kl",), ("k1", "k3", "abs"), ("loss",), ("local", "sequence"), POLICIES),
    *product(("reverse_kl",), ("k2", *PLUS), ("loss",), ("local", "sequence"), ("off",)),
    *product(("reverse_kl",), ("k2", "k3", "abs"), ("reward",), CREDITS, POLICIES),
    *product(("reverse_kl",), ("k1",), ("reward",), ("summed", "sequence"), ("off",)),
}
"""Published forms: run only with `allow_biased`, and then have exactly the known bias."""
UNBIASED = [c for c in CELLS if c not in MEANINGLESS | BIASED]

TREES = (Problem(4, 3), Problem(4, 3, end=1))
SINGLE = (Problem(6),)
TOLERANCE = 1e-10


def composed(cell, allow_biased: bool = False, **keys) -> Composed:
    divergence, estimator, placement, credit, _ = cell
    return Composed(
        divergence=DIVERGENCES[divergence][0],
        estimator=ESTIMATORS[estimator],
        coefficient=Constant(1.0),
        weighting=UNIFORM,
        reference=None,
        placement=placement,
        credit=credit,
        allow_biased=allow_biased,
        **keys,
    )


def asked(regularizer: Composed, *, on_policy: bool, samples: bool = True) -> Refusal | None:
    """What a recipe of defaults says of it."""
    return regularizer_refusal(regularizer, default_recipe(regularizer, on_policy=on_policy, samples=samples))


def told(regularizer: Composed, *, on_policy: bool, samples: bool = True) -> str | None:
    """The same in words."""
    refusal = asked(regularizer, on_policy=on_policy, samples=samples)
    return None if refusal is None else refusal.message


def setting(problem: Problem, policy: str) -> tuple[Tensor, Tensor | None, Tensor]:
    """pi_theta, pi_old (None on-policy), ref: three different random policies."""
    logits, ref = problem.random(1), problem.random(2)
    return logits, None if policy == "on" else logits + 0.5 * problem.random(3), ref


def context(cell, problem: Problem, sampler: Tensor | None = None) -> tuple[TokenContext, Tensor]:
    logits, old, ref = setting(problem, cell[4])
    leaf, estimator = logits.clone().requires_grad_(), ESTIMATORS[cell[1]]
    divergence = DIVERGENCES[cell[0]][0] if estimator.full_vocabulary else None
    return problem.context(leaf, old, ref, divergence, sampler=sampler, outcomes=estimator.outcomes), leaf


def expected_gradient(ctx: TokenContext, leaf: Tensor, penalty: Penalty) -> Tensor:
    """Of the total loss over the enumeration: the penalty's own loss, or the unclipped surrogate of an advantage of 0 minus the penalty."""
    loss = penalty.loss if penalty.reward is None else torch.exp(ctx.log_rho) * penalty.reward
    (result,) = torch.autograd.grad((ctx.batch.loss_weights * loss).sum(), leaf)
    return result


def objective(cell, problem: Problem, logits: Tensor, behaviour: Tensor | None, ref: Tensor, f=None) -> Tensor:
    """The exact divergence this cell claims, as a function of the policy's logits; `behaviour` None is the policy."""
    f, k = DIVERGENCES[cell[0]][1] if f is None else f, 2 if cell[1] == "top_2" else None
    if cell[3] == "local":
        return local_objective(f, problem, logits, logits if behaviour is None else behaviour, ref, k)
    return summed_objective(f, problem, logits, ref, k) if cell[3] == "summed" else sequence_objective(f, problem, logits, ref)


def assert_close(actual: Tensor, expected: Tensor):
    assert (actual - expected).abs().max() < TOLERANCE, (actual, expected)
