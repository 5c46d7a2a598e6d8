"""Every operation of the table, and the functions that Triton lacks."""

# pyright: reportGeneralTypeIssues=false
# Triton annotates a jitted function as one that never returns to its caller.
import pytest
import torch
import triton
import triton.language as tl
from kernels.interpreted.passes import error, passes, small_tiles
from kernels.operations import BY_NAME, weighted
from kernels.room import logits, oracle

from align_kernels.codegen import fused, lib


@pytest.mark.parametrize("name", BY_NAME)
def test_operation_and_its_derivative(name, monkeypatch):
    small_tiles(monkeypatch)
    z, u, labels = logits(1, 64, 0.7)
    phi = weighted(name)
    w = torch.tensor([[0.0], [0.0], [1.0]])
    stats, grad = passes(z, u, labels, fused(phi), w)
    exact, exact_grad = oracle(z, u, labels, lambda a, b: phi.phi(a, b).sum(-1), w)
    torch.testing.assert_close(stats["div"].double(), exact["div"], rtol=5e-6, atol=1e-6)
    assert error(grad, exact_grad) < 2e-6


@triton.jit
def apply(X, Y, FUNCTION: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(Y + at, FUNCTION(tl.load(X + at)))


@pytest.mark.parametrize(("name", "digits"), [("exp", 1.5e-7), ("expm1", 3e-7), ("log1p", 4e-7), ("tanh", 4e-7), ("sign", 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_library_functions(name, digits, dtype):
    x = torch.cat([torch.logspace(-8, 1.2, 511, dtype=dtype), torch.zeros(1, dtype=dtype)])
    x = torch.cat([x, -x if name != "log1p" else -torch.logspace(-8, -1e-3, 512, dtype=dtype)])
    y = torch.empty_like(x)
    apply[(1,)](x, y, getattr(lib, name), len(x))
    exact = getattr(torch, name)(x.double())
    tolerance = digits if dtype == torch.float32 else 4e-15
    assert ((y.double() - exact).abs() <= tolerance * exact.abs()).all()


@pytest.mark.parametrize("name", ["exp2", "log2", "reciprocal"])
def test_the_hardwares_functions_where_there_is_no_such_hardware(name):
    x = torch.logspace(-1.5, 1.5, 512)
    y = torch.empty_like(x)
    apply[(1,)](x, y, getattr(lib, f"fast_{name}"), len(x))
    exact = getattr(torch, name)(x.double())
    assert ((y.double() - exact).abs() <= 2e-7 * exact.abs().clamp_min(1e-6)).all()


@triton.jit
def between(x):
    return lib.at_most(lib.at_least(x, -2.0), 3.0), lib.at_least(lib.at_most(x, 3.0), -2.0)


@triton.jit
def apply_between(X, LOW, HIGH, N: tl.constexpr):
    at = tl.arange(0, N)
    low, high = between(tl.load(X + at))
    tl.store(LOW + at, low)
    tl.store(HIGH + at, high)


def test_bounds_are_numbers_where_the_operand_is_none():
    x = torch.tensor([-torch.inf, -2.5, 0.5, 4.0, torch.inf, torch.nan, 1.0, -0.0])
    low, high = torch.empty_like(x), torch.empty_like(x)
    apply_between[(1,)](x, low, high, len(x))
    assert low.tolist() == [-2.0, -2.0, 0.5, 3.0, 3.0, -2.0, 1.0, 0.0]
    assert high.tolist() == [-2.0, -2.0, 0.5, 3.0, 3.0, 3.0, 1.0, 0.0]
