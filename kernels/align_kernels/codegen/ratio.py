"""The terms of an f-divergence, written for accuracy, then for range, then for cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from align_kernels.codegen import near
from align_kernels.codegen.expressions import Expressions
from align_kernels.codegen.forms import Function, TorchForms
from align_kernels.codegen.nodes import Node, cost, evaluate, values
from align_kernels.codegen.specialise import specialise
from align_kernels.codegen.terms import Terms, tiles
from align_kernels.codegen.trace import trace

_PLAIN_ACCURACY = 1e-6
_LIMIT = 1e-9


def f_terms(forms: TorchForms, dtype: torch.dtype, blame: object) -> Terms:
    """term = q k_f(u) below the reference and p k_f(u)/u above it, so that neither side overflows; pull = p c(u).

    Of several ways to write them, the cheapest: they differ in how far a polynomial stands for the formulas near log u = 0. In float64,
    which is for tests, there is only the plain one: no polynomial is as exact as the formulas are there.
    """
    return _Writer(forms, dtype, blame).cheapest()


class _Writer:
    def __init__(self, forms: TorchForms, dtype: torch.dtype, blame: object):
        self.forms, self.dtype, self.blame = forms, dtype, blame
        self.make = make = Expressions()
        # Heavy tails end at a quarter of the largest number.
        self.most = torch.finfo(dtype).max / 4
        d, self.p, self.q = (make.input(name) for name in "dpq")
        self.x = make("min", self.at_least(d, -self.most), self.most)
        self.below = make("lt", self.x, 0.0)
        self.up = torch.logspace(-6, math.log10(self.most), 4000, dtype=torch.float64)
        self.generator, self.value = (self.traced(f, self.x) for f in forms[:2])
        self.coefficient, self.u = self.coefficient_and_u()

    def cheapest(self) -> Terms:
        make, x, p, q = self.make, self.x, self.p, self.q
        terms = list(self.ways(self.term, make("mul", make("mul", q, x), x), self.forms.generator, 2))
        pulls = [w for far in (self.pull, self.pull_by_side) for w in self.ways(far, make("mul", p, x), self.forms.coefficient, 1)]
        return Terms(*min(itertools.product(terms, pulls), key=lambda both: cost(*both)), alone=min(pulls, key=cost))

    def term(self, least: float) -> Node:
        """For |log u| >= least; so below."""
        below, above = self.bounded(self.generator, -self.beyond(least)), self.bounded(self.value, self.beyond(least))
        return self.by_side(self.make("mul", self.q, below), self.make("mul", self.p, above))

    def pull(self, least: float) -> Node:
        both = torch.cat([-self.beyond(least), self.beyond(least)])
        return self.make("mul", self.by_side(self.make("mul", self.q, self.u), self.p), self.bounded(self.coefficient, both))

    def pull_by_side(self, least: float) -> Node:
        below, above = (self.bounded(self.coefficient, side * self.beyond(least)) for side in (-1, 1))
        return self.by_side(self.make("mul", self.make("mul", self.q, self.u), below), self.make("mul", self.p, above))

    def ways(self, far: Callable[[float], Node], factor: Node, function: Function, order: int) -> Iterator[Node]:
        """`factor * polynomial` of log u up to some radius and far(radius) beyond; far(0) too where float32 is enough for it."""
        series = {} if self.dtype == torch.float64 else {r: near.polynomial(function, order, r) for r in near.RADII}
        for radius, coefficients in series.items():
            if coefficients is not None:
                inside = self.make("lt", self.make("abs", self.x), radius)
                yield self.make("where", inside, self.make("mul", factor, self.horner(coefficients)), far(radius))
        plain = far(0.0)
        if not any(series.values()) or _accurate(plain, function, order):
            yield plain

    def coefficient_and_u(self) -> tuple[Node, Node]:
        """For the product u c(u) below the reference, which nears its limit at u = 0 long before u underflows and c overflows."""
        lowest, function = -0.9 * math.log(torch.finfo(self.dtype).max), self.forms.coefficient
        coefficient, x = self.traced(function, self.x), self.x
        tail = -self.up[self.up > -lowest].to(self.dtype)
        product = tail.exp() * values((coefficient,), {x: tail}, tail)[coefficient].clamp(-self.most, self.most)
        limit = math.exp(lowest) * function(torch.tensor([lowest], dtype=self.dtype)).item()
        if not ((product - limit).abs() <= _LIMIT).all():
            x = self.make("max", x, lowest)
            coefficient = self.traced(function, x)
        return coefficient, self.make("exp", x)

    def traced(self, function: Function, at: Node) -> Node:
        return trace(self.make, function, (at,), blame=self.blame, dtype=self.dtype)[0]

    def beyond(self, least: float) -> Tensor:
        return self.up[self.up >= least]

    def by_side(self, below: Node, above: Node) -> Node:
        return self.make("where", self.below, below, above)

    def bounded(self, node: Node, domain: Tensor) -> Node:
        """`node` as it is on a domain of log u, cut at +-most where it is not within them by itself."""
        if self.dtype == torch.float32:
            node = specialise(self.make, node, self.x, domain)
        out = values((node,), {self.x: domain.to(self.dtype)}, domain.to(self.dtype))[node]
        if not (out <= self.most).all():
            node = self.make("where", self.make("lt", node, self.most), node, self.most)
        return node if (out >= -self.most).all() else self.at_least(node, -self.most)

    def at_least(self, node: Node, least: float) -> Node:
        """max(node, least), and `least` for a NaN: what a maximum makes of one differs between machines."""
        return self.make("where", self.make("gt", node, least), node, least)

    def horner(self, coefficients: list[float]) -> Node:
        result = self.make.constant(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            result = self.make("add", self.make("mul", result, self.x), coefficient)
        return result


def _accurate(plain: Node, function: Function, order: int) -> bool:
    """Does float32 keep its digits as log u nears 0?"""
    x = torch.cat([side * torch.logspace(-4, 0, 100) for side in (-1, 1)])
    (out,) = evaluate((plain,), tiles(x))
    exact = tiles(x.double())
    wanted = function(exact["d"]) * exact["q" if order == 2 else "p"]
    return bool(((out.double() - wanted).abs() <= _PLAIN_ACCURACY * wanted.abs()).all())
