"""The terms of an f-divergence, written for accuracy, then for range, then for cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch

from align_kernels.by_f import Function
from align_kernels.codegen import polynomial
from align_kernels.codegen.expressions import Expressions
from align_kernels.codegen.forms import TorchForms
from align_kernels.codegen.nodes import Node, cost, evaluate, values
from align_kernels.codegen.specialise import cheapest
from align_kernels.codegen.terms import Terms, tiles
from align_kernels.codegen.trace import Traced, traced

_PLAIN_ACCURACY = 1e-6
_LIMIT = 1e-9


def f_terms(forms: TorchForms, dtype: torch.dtype, blame: object) -> Terms:
    """term = q k_f(u) below the reference and p k_f(u)/u above it, so that neither side overflows; pull = p c(u).

    Of several ways to write them, the cheapest: they differ in how far a polynomial stands for the formulas near log u = 0. In float64,
    which is for tests, there is only the plain one: no polynomial is as exact as the formulas are there.
    """
    return _Writer(forms, dtype, blame).terms()


class _Writer:
    def __init__(self, forms: TorchForms, dtype: torch.dtype, blame: object):
        self.forms, self.dtype = forms, dtype
        bregman, khat, self.grad_weight = (traced(form, blame=blame, dtype=dtype) for form in forms)
        self.make = make = Expressions()
        # Heavy tails end at a quarter of the largest number.
        self.most = torch.finfo(dtype).max / 4
        self.d, self.p, self.q = (make.input(name) for name in "dpq")
        self.is_below = make("lt", self.d, 0.0)
        # -|log u|, of which each side's formulas are: what they share is then one part, and no exponential of it overflows.
        self.n = make("at_least", make("neg", make("abs", self.d)), -self.most)
        self.up = make("neg", self.n)
        self.range = -torch.logspace(-6, math.log10(self.most), 4000, dtype=torch.float64)
        self.bregman, self.khat = self.placed(bregman, self.n), self.placed(khat, self.up)
        self.weight, self.below = self.pull_below()
        self.above = self.placed(self.grad_weight, self.up)

    def terms(self) -> Terms:
        make, d, p, q = self.make, self.d, self.p, self.q
        terms = list(self.ways(self.term, make("mul", q, make("mul", d, d)), self.forms.bregman, 2))
        pulls = list(self.ways(self.pull, make("mul", p, d), self.forms.grad_weight, 1))
        both = min(itertools.product(terms, pulls), key=lambda both: cost(*both))
        return Terms(*both, term_alone=min(terms, key=cost), pull_alone=min(pulls, key=cost))

    def term(self, least: float) -> Iterator[Node]:
        """For |log u| >= least; so below."""
        below, above = self.bounded(self.bregman, least), self.bounded(self.khat, least)
        yield self.by_side(self.make("mul", self.q, below), self.make("mul", self.p, above))
        yield self.make("mul", self.by_side(self.q, self.p), self.by_side(below, above))

    def pull(self, least: float) -> Iterator[Node]:
        make, p = self.make, self.p
        yield self.by_side(make("mul", self.weight, self.bounded(self.below, least)), make("mul", p, self.bounded(self.above, least)))
        if self.weight is p:
            x = self.by_side(self.n, self.up)
            yield make("mul", p, self.bounded(self.placed(self.grad_weight, x), least, x))

    def pull_below(self) -> tuple[Node, Node]:
        """p c(u) where u c(u) is 0 before p underflows, else q u c(u): that nears its limit long before u underflows and c overflows."""
        grad_weight, lowest = self.forms.grad_weight, -0.9 * math.log(torch.finfo(self.dtype).max)
        tail = self.range[self.range < lowest]
        product = tail.exp() * grad_weight(tail).clamp(-self.most, self.most)
        if (product.abs() <= _LIMIT).all():
            return self.p, self.placed(self.grad_weight, self.n)
        x = self.make("max", self.n, lowest)
        return self.q, self.make("mul", self.make("exp", x), self.placed(self.grad_weight, x))

    def ways(self, far: Callable[[float], Iterator[Node]], factor: Node, function: Function, order: int) -> Iterator[Node]:
        """`factor * polynomial` of log u up to some radius and far(radius) beyond; far(0) too where float32 is enough for it."""
        series = {} if self.dtype == torch.float64 else polynomial.polynomials(function, order)
        for radius, coefficients in series.items():
            inside = self.make("lt", self.make("abs", self.d), radius)
            close = self.make("mul", factor, self.horner(coefficients))
            yield from (self.make("where", inside, close, beyond) for beyond in far(radius))
        for plain in far(0.0):
            if not series or _accurate(plain, function, order):
                yield self.zero_at_one(plain)

    def zero_at_one(self, plain: Node) -> Node:
        """`plain`, and 0 where policy and reference agree: f(1) need not be a number of the type."""
        at_one = evaluate((plain,), tiles(torch.zeros(1, dtype=self.dtype)))[0]
        return plain if at_one == 0 else self.make("where", self.make("eq", self.d, 0.0), 0.0, plain)

    def placed(self, function: Traced, at: Node) -> Node:
        return function.at(self.make, (at,))[0]

    def by_side(self, below: Node, above: Node) -> Node:
        return self.make("where", self.is_below, below, above)

    def bounded(self, node: Node, least: float, variable: Node | None = None) -> Node:
        """`node` as it is for |log u| >= least, cut at +-most where it is not within them by itself; of -|log u|, or else of log u."""
        domain = self.range[self.range <= -least]
        domain = torch.cat([domain, -domain]) if variable else domain
        variable = variable or self.n
        if self.dtype == torch.float32:
            node = cheapest(self.make, node, variable, domain, self.most / 8, self.make("exp", self.n))
        out = values((node,), {variable: domain.to(self.dtype)}, domain.to(self.dtype))[node]
        if not (out <= self.most).all():
            node = self.make("at_most", node, self.most)
        return node if (out >= -self.most).all() else self.make("at_least", node, -self.most)

    def horner(self, coefficients: list[float]) -> Node:
        """A coefficient that is 0 costs nothing: the next is multiplied by the square."""
        make, result, power = self.make, self.make.constant(coefficients[-1]), self.make.constant(1.0)
        for coefficient in coefficients[-2::-1]:
            power = make("mul", self.d, power)
            if coefficient:
                result, power = make("add", make("mul", result, power), coefficient), make.constant(1.0)
        return make("mul", result, power)


def _accurate(plain: Node, function: Function, order: int) -> bool:
    """Does float32 keep its digits as log u nears 0?"""
    x = torch.cat([side * torch.logspace(-4, 0, 100) for side in (-1, 1)])
    (out,) = evaluate((plain,), tiles(x))
    exact = tiles(x.double())
    wanted = function(exact["d"]) * exact["q" if order == 2 else "p"]
    return bool(((out.double() - wanted).abs() <= _PLAIN_ACCURACY * wanted.abs()).all())
