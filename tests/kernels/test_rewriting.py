"""How long the search for a cheaper way may take: a divergence is registered in seconds, however long its formula."""

import functools

import torch

from align_kernels.codegen import hardware
from align_kernels.codegen.expressions import Expressions
from align_kernels.codegen.nodes import evaluate, ordered
from align_kernels.codegen.rewrites import distributed, ways
from align_kernels.codegen.specialise import cheapest


def test_what_is_used_twice_is_rewritten_once():
    """A chain in which every value is used twice, as an iteration in f is: 2^40 ways down, and 40 parts."""
    make = Expressions()
    x = make.input("x")
    m = make("sub", 1.0, x)
    for _ in range(40):
        m = make("add", make("mul", make("sub", 1.0, x), m), make("mul", make("add", 1.0, x), m))
    found = distributed(make, make("mul", make("exp", x), m), x)
    at = {"x": torch.linspace(-1, 0, 11, dtype=torch.float64)}
    assert len(ordered((found,))) < 300
    torch.testing.assert_close(evaluate((found,), at), (torch.exp(at["x"]) * (1 - at["x"]) * 2.0**40,))


def test_a_step_that_does_not_hold_is_tried_once(monkeypatch):
    make, tried = Expressions(), []
    off = hardware.off
    monkeypatch.setattr(hardware, "off", lambda node, *args: tried.append(node) or off(node, *args))
    rebuilds = []
    monkeypatch.setattr("align_kernels.codegen.specialise.ways", lambda make, part: rebuilds.append(part) or ways(make, part))
    x = make.input("x")
    # Near 0 none of these may become the hardware's.
    node = functools.reduce(lambda a, b: make("add", a, b), (make("log1p", make("mul", c, x)) for c in (0.1, 0.3, 0.7, 0.9)))
    near = torch.linspace(-1e-2, 1e-2, 200, dtype=torch.float64)
    parts = len(ordered((node,), (x,)))
    cheapest(make, node, x, near, 1e37, x)
    assert len(rebuilds) <= 2 * parts, "the search begins anew where it found something, and only there"
    assert len(tried) <= 4 * 2 * parts
