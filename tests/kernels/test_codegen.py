"""From a torch function to source: what is emitted, and that it is worth what the function is."""

import math
import multiprocessing
import os

import pytest
import torch
from kernels.room import DIVERGENCES, ROOM

from align_kernels.codegen import Elementwise, cache, fused
from align_kernels.codegen.expressions import Expressions
from align_kernels.codegen.nodes import OPERATIONS, cost, evaluate, ordered
from align_kernels.codegen.specialise import cheapest, specialise
from align_kernels.codegen.terms import tiles


@pytest.mark.parametrize("name", DIVERGENCES)
def test_terms_in_torch_against_float64(name):
    """At |log u| from 1e-4 to 20, relative to what the token adds; the pull relative to its probability too."""
    fn, x = fused(DIVERGENCES[name]), torch.cat([side * torch.logspace(-4, 1.3, 300) for side in (-1, 1)])
    tile, exact = tiles(x), tiles(x.double())
    with torch.no_grad():
        term, pull = fn.terms(*tile.values())
        forms = DIVERGENCES[name]
        d, p, q = exact["d"], exact["p"], exact["q"]
        wanted, wanted_pull = torch.where(d < 0, q * forms.bregman(d), p * forms.khat(d)), p * forms.grad_weight(d)
    assert ((term - wanted).abs() <= 1e-5 * wanted.abs()).all()
    assert ((pull - wanted_pull).abs() <= 1e-5 * wanted_pull.abs() + 1e-7 * p).all()


def test_a_users_function_is_as_accurate_as_the_closed_form():
    """Reverse KL from f alone: near the reference f - f(1) - f'(1)(u - 1) would have no digit left."""
    fn = fused(lambda log_u: torch.exp(log_u) * log_u)
    x = torch.tensor([-1e-3, -1e-5, 1e-5, 1e-3])
    term, pull = fn.terms(*tiles(x).values())
    assert torch.allclose(term.double(), x.double() ** 2 / 2, rtol=1e-3)
    assert torch.allclose(pull, x, rtol=2e-3)


@pytest.mark.parametrize("name", ROOM)
def test_terms_as_align_defines_them_at_the_extremes(name):
    """One side or both impossible, or 200 nats apart: align.core's exact_divergence of rows that end so."""
    from align.core.logprobs import exact_divergence

    big = torch.tensor([0.5, 0.5]).log()
    for a_end, b_end in ((-100.0, -5.0), (-5.0, -100.0), (-200.0, -1.0), (-torch.inf, -torch.inf), (-torch.inf, -3.0)):
        a, b = (torch.cat([big, torch.tensor([end])]).requires_grad_() for end in (a_end, b_end))
        divergence = DIVERGENCES[name]
        expected = exact_divergence(divergence, a, b.detach())
        (expected_pull,) = torch.autograd.grad(expected, a)
        with torch.no_grad():
            fn = fused(divergence)
            term, pull = fn.terms(a, b, a - b, a.exp(), b.exp())
            value, slope = fn.transform(term.sum()) if fn.transform else (term.sum(), 1.0)
        if expected < 1e30:
            torch.testing.assert_close(value, expected.detach(), rtol=2e-5, atol=1e-7)
            possible = ~torch.isneginf(a.detach())
            torch.testing.assert_close((slope * pull)[possible], expected_pull[possible], rtol=2e-5, atol=1e-7)
        else:
            assert 1e30 < value < torch.inf


def test_an_elementwise_that_is_an_f_divergence_is_evaluated_as_one():
    assert fused(Elementwise(lambda a, b: torch.exp(a) * (a - b))).forms is not None
    assert fused(Elementwise(lambda a, b: -torch.exp(a) * (a - b))).forms is None, "what it measures may be negative"
    assert fused(Elementwise(lambda a, b: (a - b) ** 2)).forms is None


def test_a_minus_b_becomes_the_accurate_difference():
    term, _ = fused(Elementwise(lambda a, b: (a - b) * torch.tanh(b - a))).terms(
        *(torch.tensor([x]) for x in (-20.0, -20.0, 1e-9, math.exp(-20), math.exp(-20)))
    )
    assert term.item() == pytest.approx(-1e-18, rel=1e-6)


def test_equal_parts_are_one_node_and_constants_are_folded():
    make = Expressions()
    x, one = make.input("x"), make.constant(1.0)
    assert make("mul", make("add", x, one), make("exp", x)) is make("mul", make("exp", x), make("add", one, x))
    assert make("add", make("neg", x), one) is make("sub", one, x)
    assert make("abs", make("neg", x)) is make("abs", x)
    assert make("add", make("sub", x, one), make.constant(2.0)) is make("add", one, x)
    assert make("exp", make("log1p", x)) is make("add", one, x)
    assert make("sub", x, make("sub", x, make.input("y"))) is make.input("y")
    assert make("mul", make.constant(0.5), make("mul", make.constant(2.0), x)) is x
    assert make("max", make.constant(-0.0), x) is not make("max", make.constant(0.0), x)


def test_simplification_keeps_the_value():
    """Random expressions, each made with and without the rules."""
    random = torch.Generator().manual_seed(0)

    def pick(n: int) -> int:
        return int(torch.randint(n, (), generator=random))

    class Plain(Expressions):
        def _simpler(self, op, args, numbers):
            return None

    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    for _ in range(150):
        both = [(m, [m.input("x"), m.constant(1.0), m.constant(-0.5), m.constant(0.0)]) for m in (Expressions(), Plain())]
        for _ in range(12):
            op = ["add", "sub", "mul", "neg", "abs", "max", "min", "exp", "log1p", "where"][pick(10)]
            count = {"neg": 1, "abs": 1, "exp": 1, "log1p": 1, "where": 3}.get(op, 2)
            chosen = [pick(len(both[0][1])) for _ in range(count)]
            for make, nodes in both:
                args = [nodes[i] for i in chosen]
                if op == "where":
                    args[0] = make("lt", nodes[0], args[0] if args[0].op != "input" else make.constant(0.3))
                nodes.append(make(op, *args))
        simple, plain = (evaluate((nodes[-1],), {"x": x})[0] for _, nodes in both)
        # Where it has one: x - (x - y) is y for an infinite x too.
        finite = torch.isfinite(plain)
        torch.testing.assert_close(simple[finite], plain[finite], rtol=1e-9, atol=1e-9)
        assert cost(both[0][1][-1]) <= cost(both[1][1][-1])


def test_choices_that_a_domain_decides_are_left_out():
    make = Expressions()
    x = make.input("x")
    series = make("where", make("lt", make("abs", x), make.constant(0.1)), x, make("expm1", make("max", x, make.constant(0.2))))
    up = torch.logspace(-0.3, 2, 100, dtype=torch.float64)
    assert specialise(make, series, x, up) is make("expm1", x)
    assert {n.op for n in ordered((specialise(make, series, x, up - 1),))} >= {"where", "max", "expm1"}


def test_what_a_domain_allows_is_done_more_cheaply():
    make = Expressions()
    x = make.input("x")
    down, near = -torch.logspace(0, 3, 200, dtype=torch.float64), torch.linspace(-1e-2, 1e-2, 200, dtype=torch.float64)

    def best(node, domain=down):
        return cheapest(make, node, x, domain, 1e37, make("exp", x))

    def ops(node):
        return {n.op for n in ordered((node,)) if n.args}

    one = make.constant(1.0)
    assert best(make("sub", make("log1p", make("exp", x)), one)) is best(make("add", -1.0, make("log", make("add", one, make("exp", x)))))
    assert best(make("expm1", x)) is make("sub", make("exp", x), one)
    for kept in ("expm1", "log1p"):
        assert best(make(kept, x), near) is make(kept, x), "its value is no larger than the hardware's error"
    # log(1 + e^x), and the same written so that it has no overflow where this domain does not lead.
    softplus = make("add", make("max", x, 0.0), make("log1p", make("exp", make("neg", make("abs", x)))))
    assert best(make("sub", one, softplus)) is best(make("sub", one, make("log1p", make("exp", x))))
    assert best(make("exp", make("sub", x, softplus))) is make(
        "mul", make("fast_reciprocal", make("add", one, make("exp", x))), make("exp", x)
    )
    # e^x (e^(-x) - 1), of which one part overflows and the other underflows.
    assert best(make("mul", make("exp", x), make("expm1", make("neg", x))), down[down > -300]) is make("sub", one, make("exp", x))
    assert ops(best(make("exp", make("add", make("log1p", make("exp", x)), 2.0)))) == {"exp", "add", "mul"}
    assert best(make("add", make("mul", 0.3, make("sub", x, one)), make("mul", 0.7, x))) is make("add", -0.3, x)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_hardwares_errors_in_the_terms(name):
    """Its functions' documented errors, at random, in place of torch's exact ones: still right to a few bits at any log u."""
    random = torch.Generator().manual_seed(0)
    fn, x = fused(DIVERGENCES[name]), torch.cat([side * torch.logspace(-3, 1.3, 1500) for side in (-1, 1)])
    tile, exact = tiles(x), tiles(x.double())
    for output, wanted in zip(
        fn.expressions(torch.float32),
        2
        * (
            torch.where(x < 0, exact["q"] * fn.forms.bregman(exact["d"]), exact["p"] * fn.forms.khat(exact["d"])),
            exact["p"] * fn.forms.grad_weight(exact["d"]),
        ),
        strict=True,
    ):
        found = {}
        for node in ordered((output,)):
            y = tile[node.value] if node.op == "input" else x.new_tensor(node.number or 0.0)
            if node.args:
                y = OPERATIONS[node.op].torch(*(found[a] for a in node.args))
                off = 2.0**-22 * (2 * torch.rand(x.shape, generator=random) - 1)
                if node.op in ("exp", "fast_exp2", "fast_log2", "fast_reciprocal"):
                    y = y + off * (y.abs().clamp_min(1) if node.op == "fast_log2" else y.abs())
            found[node] = y
        assert ((found[output] - wanted).abs() <= 6e-6 * wanted.abs() + 1e-7 * exact["p"] * x.abs()).all()


def test_what_follows_from_f_does_not_fall_where_float32_ends():
    """k_f(u)/u of a convex f grows above u = 1, and is held where float32 ends."""
    value = fused(DIVERGENCES["users"]).forms.khat(torch.arange(1.0, 90.0))
    assert (value[1:] >= value[:-1]).all() and value[-1] > 1e12


def test_the_cache_is_named_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_KERNELS_CACHE", str(tmp_path / "kernels"))
    source = fused(DIVERGENCES["pearson"]).source()
    path = cache.write(source)
    assert path.parent == tmp_path / "kernels" and path.stem == f"div_{cache.content_hash(source)}"
    path.write_text("half a fi")
    assert cache.write(source).read_text() == source, "a file that is not what its name says is written again"
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no temporary file stays"
    assert fused(DIVERGENCES["pearson"]).hash != fused(DIVERGENCES["neyman"]).hash


def write_many(folder: str) -> None:
    os.environ["ALIGN_KERNELS_CACHE"] = folder
    for i in range(200):
        source = f"# {i % 5}" * 4000
        assert cache.write(source).read_text() == source


def test_many_processes_may_write_the_same_kernel(tmp_path):
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=write_many, args=(str(tmp_path),)) for _ in range(3)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 5
