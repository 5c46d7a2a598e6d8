"""Divergences: one convex f per file. `D_f(pi||ref) = E_ref[f(u)]`, `u = pi/ref`, `f(1) = 0`, in nats.

One file serves every use (methods: Wang et al. 2309.16240 for the link, Go et al. 2302.08215 for the gradient identity
`grad D_f = E_pi[f'(u) grad log pi]`):

| use | what of f |
| --- | --- |
| loss, sampled token | value `khat = k_f(u)/u >= 0`, gradient `rho * c * grad log pi` |
| loss, full vocabulary | value `sum_v ref_v k_f(u_v)`, gradient `pi_v c_v` against `log pi_v` |
| reward | own token `c`, future tokens `khat` |
| preference link | `c` of the log-ratio of the whole answer, differentiated |

with `c = f'(u) - f'(1)` and the Bregman form `k_f(u) = f(u) - f(1) - f'(1)(u - 1) >= 0`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from align.config.parts import Part
from align_kernels import OfRows
from align_kernels.by_f import ByF

FARTHEST = 300.0
"""Nats: what follows from `f` by autograd takes a log-ratio beyond as this one. An outcome that one side alone allows is infinitely
far, where f' is 0 * inf; at e^300 float64 still holds u^2."""


POINTS = torch.linspace(-2, 2, 4, dtype=torch.float64)
"""Nats: where one divergence is told from another."""


class Divergence(Part, ABC):
    """The contract. A user writes `f(self, log_u)`; the rest follows by autograd, in float64.

    Every method is elementwise in `log_u = log pi - log ref`, nats, and returns its dtype.
    A divergence overrides the functions that it has in closed form, for accuracy and range.

    Far from u = 1, where float32 ends (|log u| > 81 at the earliest in the powers of u that a divergence has), `f_prime`, `grad_weight`,
    `bregman` and `khat` of the shipped divergences stay at their last finite value, with a derivative of 0: never infinite or NaN. `f` is a
    definition and is evaluated in float64, at most `FARTHEST` nats away.
    """

    full_support = True
    """f'(0+) = -inf: the regularized optimum never gives up an answer, as a preference link needs."""

    convex = True
    """False is for a published functional that is not convex in u: then f' may fall, and no recipe refuses it for that."""

    @abstractmethod
    def f(self, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """f(u) at u = exp(log_u)."""

    def transform(self, mean: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """The divergence of a state from `mean = E_ref[f(u)]` there, and its slope in `mean`.

        The identity, unless the divergence is an increasing function of an f-divergence (Renyi). One sampled token does not tell the
        mean, so then only an exact estimator measures it.
        """
        return mean, torch.ones_like(mean)

    @property
    def is_f_divergence(self) -> bool:
        """No `transform` of its own, and no StateFunctional."""
        return type(self).transform is Divergence.transform

    @property
    def is_reverse_kl(self) -> bool:
        """KL(pi||ref) itself, a user's own included: c(u) = log u."""
        return self.is_f_divergence and torch.allclose(self.grad_weight(POINTS), POINTS, rtol=1e-9, atol=0.0)

    @property
    def no_link(self) -> str | None:
        """Why it cannot score whole answers in a preference loss, or None."""
        name = type(self).__name__
        if not self.is_f_divergence:
            return f"{name} is a function of an expectation, so an answer has no score f'(u) of its own: use an f-divergence as the link"
        scores = self.grad_weight(POINTS)
        if torch.equal(scores, scores.sign() * scores.abs().max()):
            return f"{name} has a constant f' on either side of 1, so a preference link would have no gradient: use another divergence"
        if (scores.diff() < 0).any():
            return (
                f"{name} is not convex: f' does not increase everywhere, so a preference link would push some preferred answers down: "
                "use another divergence"
            )
        return None

    @cached_property
    def by_f(self) -> ByF:
        """What follows from f alone. Kept, because its slope at u = 1 takes as long as f of a batch."""
        return ByF(self.f)

    def f_prime(self, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """df/du at u = exp(log_u); at a kink of f at u = 1 the mean of the slopes on both sides."""
        return self.by_f.f_prime(log_u.double().clamp(-FARTHEST, FARTHEST)).to(log_u.dtype)

    def grad_weight(self, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """c(u) = f'(u) - f'(1): what multiplies the score of the sampled token. Differentiable, as a preference link needs it."""
        x = log_u.double()
        return (self.f_prime(x) - self.f_prime(torch.zeros_like(x))).to(log_u.dtype)

    def bregman(self, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """k_f(u) = f(u) - f(1) - f'(1)(u - 1) >= 0; `E_ref[k_f] = D_f`."""
        x = log_u.detach().double().clamp(-FARTHEST, FARTHEST)
        zero = torch.zeros_like(x)
        return (self.f(x) - self.f(zero) - self.f_prime(zero) * torch.expm1(x)).to(log_u.dtype)

    def khat(self, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """khat(u) = k_f(u)/u >= 0; `E_pi[khat] = D_f`."""
        x = log_u.detach().double().clamp(-FARTHEST, FARTHEST)
        return (self.bregman(x) * torch.exp(-x)).to(log_u.dtype)


class StateFunctional(Divergence, OfRows):
    """The contract of what no f gives: a function of both whole distributions at a state. A user writes `of_state(logp, ref_logp)`.

    Only an exact estimator over every token measures it, in the loss. It has no kernel: torch on whole rows, a chunk of tokens at a time.
    """

    full_support = False
    zero_at_reference = True
    """0 where policy and reference agree. False is for a loss of distillation with another minimum."""

    @property
    def is_f_divergence(self) -> bool:
        return False

    @property
    def no_link(self) -> str | None:
        return "the divergence is a function of whole distributions, so an answer has no score f'(u): use an f-divergence as the link"

    def f(self, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        raise TypeError(f"{type(self).__name__} is a function of whole distributions: no f of the ratio gives it")
