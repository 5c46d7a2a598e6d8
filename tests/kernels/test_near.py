"""Near the reference, where a formula has no digits left: the polynomials that stand for it, and exactly 0 where both agree."""

import pytest
import torch

from align_kernels.codegen import fused
from align_kernels.codegen.polynomial import horner, polynomial, polynomials
from align_kernels.codegen.terms import tiles


def test_polynomials_near_the_reference():
    x = torch.linspace(-0.5, 0.5, 101, dtype=torch.float64)
    cosh_less_one = lambda t: 2 * torch.sinh(t / 2) ** 2  # noqa: E731
    for function, order, exact in ((torch.expm1, 1, [1, 1 / 2, 1 / 6, 1 / 24]), (cosh_less_one, 2, [1 / 2, 0, 1 / 24])):
        found = polynomial(function, order, 0.5)
        assert found[: len(exact)] == pytest.approx(exact, abs=2e-5)
        nonzero = x[x != 0]
        assert (horner(found, nonzero) * nonzero**order / function(nonzero) - 1).abs().max() < 3e-8
    assert polynomial(lambda t: torch.expm1(t).abs(), 2, 0.5) is None, "total variation has a kink"


def soft_total_variation(log_u):
    """sqrt((u - 1)^2 + w^2): branch points at log u = +-0.1i leave it no polynomial up to 1/2."""
    return torch.sqrt(torch.expm1(log_u) ** 2 + 0.01)


def huber(log_u):
    """In u - 0.1, quadratic up to u = 1.1: a kink at log u = 0.095, and an f(1) that float32 does not have."""
    y = torch.expm1(log_u) + 0.9
    return torch.where(y.abs() < 1, 0.5 * y * y, y.abs() - 0.5)


@pytest.mark.parametrize(("f", "curvature"), [(soft_total_variation, 10.0), (huber, 1.0)])
def test_a_kink_or_a_pole_nearby_leaves_a_smaller_polynomial(f, curvature):
    """D = sum q f''(1) x^2/2 to first order; as written float32 has no digit of it."""
    x = torch.tensor([-1e-4, 1e-4, 1e-5])
    term, pull = fused(f).terms(*tiles(x).values())
    torch.testing.assert_close(term, curvature * x**2 / 2, rtol=3e-4, atol=0)
    torch.testing.assert_close(pull, curvature * x, rtol=3e-4, atol=0)


@pytest.mark.parametrize("kink", [0.3, 0.97, 0.98, 0.985, 0.99])
def test_the_value_is_0_where_both_agree_wherever_the_kink(kink):
    """Its f(1) is no number of float32, and nearer than 1/32 to the reference no polynomial fits."""
    fn = fused(lambda log_u: torch.relu(torch.exp(log_u) - kink) + (torch.exp(log_u) - kink) ** 2)
    assert [t.item() for t in fn.terms(*tiles(torch.zeros(1)).values())] == [0.0, 0.0]


def test_a_polynomial_is_the_same_wherever_its_numbers_lie():
    """Kernels are cached by their text. A linear solver's last digits hang on the alignment of its memory."""
    found, kept = set(), []
    for i in range(40):
        kept.append(torch.empty(3 * i + 1))
        found.add(str(polynomials(lambda x: torch.sqrt(torch.expm1(x) ** 2 + 1) - 1, 2)))
    assert len(found) == 1
