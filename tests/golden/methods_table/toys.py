"""What the rows of the methods' oracle table have in common: its toy distributions, its divergences and their penalties.

G5 and G4 are the table's two pairs (pi, ref). "row n" in the name of a test beside this file is the row of that table. The numbers are
arithmetic from the formulas of the papers, or figures of TRL 1.16 (rows 65 and 66); none was made with align.
"""

from __future__ import annotations

import pytest
import torch
from helpers.enumeration import NAME, Problem
from torch import Tensor

from align.coefficients.constant import Constant
from align.config.registry import _complete
from align.contexts import TokenContext
from align.divergences import Divergence
from align.divergences.alpha import Alpha
from align.divergences.chi_squared_kl import ChiSquaredKl
from align.divergences.forward_kl import ForwardKl
from align.divergences.hellinger import Hellinger
from align.divergences.jeffreys import Jeffreys
from align.divergences.jensen_shannon import JensenShannon
from align.divergences.k2_functional import K2Functional
from align.divergences.neyman import Neyman
from align.divergences.pearson import Pearson
from align.divergences.reverse_kl import ReverseKl
from align.divergences.total_variation import TotalVariation
from align.divergences.tsallis import Tsallis
from align.regularizers.composed import Composed
from align.weightings.uniform import Uniform

G5 = (torch.tensor([0.40, 0.25, 0.20, 0.10, 0.05], dtype=torch.float64), torch.tensor([0.10, 0.30, 0.20, 0.15, 0.25], dtype=torch.float64))
G4 = (torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))


def written_by_a_user(f) -> Divergence:
    """A class with f alone, completed as the registry completes a plugin."""
    return _complete(type("Own", (), {"f": lambda self, log_u: f(torch.exp(log_u))}), "divergence", "own")()


ALPHA = 0.3
FUNCTIONS = {
    "reverse_kl": lambda u: u * u.log(),
    "forward_kl": lambda u: -u.log(),
    "jensen_shannon": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
    "alpha_0.3": lambda u: (u ** (1 - ALPHA) - (1 - ALPHA) * u - ALPHA) / (ALPHA * (ALPHA - 1)),
    "pearson": lambda u: (u - 1) ** 2,
    "neyman": lambda u: (u - 1) ** 2 / u,
    "hellinger": lambda u: (u.sqrt() - 1) ** 2,
    "jeffreys": lambda u: (u - 1) * u.log(),
    "total_variation": lambda u: 0.5 * (u - 1).abs(),
    "tsallis_1.7": lambda u: (u**1.7 - u) / 0.7,
    "chi2_kl": lambda u: 0.5 * (u - 1) ** 2 + u * u.log(),
    "k2_functional": lambda u: 0.5 * u * u.log() ** 2,
}
SHIPPED = {
    "reverse_kl": ReverseKl(),
    "forward_kl": ForwardKl(),
    "jensen_shannon": JensenShannon(),
    "alpha_0.3": Alpha(alpha=ALPHA),
    "pearson": Pearson(),
    "neyman": Neyman(),
    "hellinger": Hellinger(),
    "jeffreys": Jeffreys(),
    "total_variation": TotalVariation(),
    "tsallis_1.7": Tsallis(q=1.7),
    "chi2_kl": ChiSquaredKl(),
    "k2_functional": K2Functional(),
}
EVERY = [pytest.param(written_by_a_user(f), f, id=f"own {n}") for n, f in FUNCTIONS.items()] + [
    pytest.param(d, FUNCTIONS[n], id=f"shipped {n}") for n, d in SHIPPED.items()
]


def close(actual, expected, digits: int = 10):
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=0.5000001 * 10.0**-digits
    )


def penalty_of(divergence, estimator, pair=G5, *, placement="loss", credit="local"):
    """The penalty, its context and the logits on one token drawn from the first of two distributions."""
    pi, ref = pair
    leaf = pi.log()[None].requires_grad_()
    ctx = Problem(len(pi)).context(leaf, None, ref.log()[None], divergence)
    return regularizer(divergence, estimator, placement, credit).penalty(ctx, NAME), ctx, leaf


def regularizer(divergence, estimator, placement="loss", credit="local") -> Composed:
    return Composed(
        divergence=divergence,
        estimator=estimator,
        coefficient=Constant(1.0),
        weighting=Uniform(),
        reference=None,
        placement=placement,
        credit=credit,
    )


def mean(ctx: TokenContext, x: Tensor) -> Tensor:
    return (ctx.batch.loss_weights * x).sum()


def loss_gradient(penalty, ctx: TokenContext, leaf: Tensor) -> Tensor:
    """Of the mean loss; a reward enters through the unclipped surrogate."""
    loss = penalty.loss if penalty.reward is None else torch.exp(ctx.log_rho) * penalty.reward
    return torch.autograd.grad(mean(ctx, loss), leaf, retain_graph=True)[0]


def slope(f, u: Tensor) -> Tensor:
    """f'(u) by autograd in u itself."""
    u = u.detach().clone().requires_grad_()
    return torch.autograd.grad(f(u).sum(), u)[0]
