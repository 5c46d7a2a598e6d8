"""What is refused when a divergence is registered, where the message points and what it says to do."""

import inspect
import math

import pytest
import torch

from align_kernels.codegen import DivergenceError, fused


def line_of(function, text: str) -> str:
    lines, start = inspect.getsourcelines(function)
    return f"{__file__}:{start + next(i for i, line in enumerate(lines) if text in line)}"


def reduces(log_u):
    shifted = log_u + 1
    return torch.exp(log_u) * (shifted - shifted.sum())


def decides(log_u):
    if (log_u > 0).all():
        return log_u
    return torch.exp(log_u) * log_u


def takes_an_element(log_u):
    return torch.exp(log_u) * log_u[0].item()


def is_not_torch(log_u):
    return math.exp(log_u) * log_u


def is_unknown(log_u):
    return torch.exp(log_u) * torch.special.bessel_j0(log_u)


def has_another_shape(log_u):
    return (torch.exp(log_u) * log_u).sum()


@pytest.mark.parametrize(
    ("function", "text", "remedy"),
    [
        (reduces, "shifted.sum()", "must be elementwise: the kernel itself takes the sum"),
        (decides, "if (log_u", "say torch.where"),
        (takes_an_element, "log_u[0].item()", "say torch.where"),
        (is_not_torch, "math.exp", "torch.exp, not math.exp"),
        (is_unknown, "bessel", "These have: abs, add, "),
    ],
)
def test_a_function_that_cannot_be_a_kernel_is_refused_at_its_line(function, text, remedy):
    with pytest.raises(DivergenceError) as refused:
        fused(function)
    assert str(refused.value).startswith(line_of(function, text))
    assert remedy in str(refused.value)


def test_the_line_is_found_behind_autograd_and_closed_forms():
    class Plugin:
        def f(self, log_u):
            return torch.exp(log_u) * log_u

        def bregman(self, log_u):
            return torch.exp(log_u) * log_u - torch.expm1(log_u)

        def khat(self, log_u):
            return log_u + torch.expm1(-log_u)

        def grad_weight(self, log_u):
            return torch.cumsum(log_u, 0)

    with pytest.raises(DivergenceError, match="joins several elements") as refused:
        fused(Plugin())
    assert str(refused.value).startswith(line_of(Plugin.grad_weight, "cumsum"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (has_another_shape, "must be elementwise"),
        (lambda log_u: log_u[:, None] * log_u, r"returns \[5, 5\] for tensors of shape \[5\]"),
        (lambda log_u: None, "returns NoneType for tensors of shape"),
        (lambda log_u: 3.0, "returns float for tensors of shape"),
        (lambda log_u: torch.arange(5.0) * log_u, "has no form in it|holds a tensor"),
        (lambda log_u: -torch.exp(log_u) * log_u, "lies below its tangent at u = 1"),
        (lambda log_u: torch.log(log_u), "not finite at log u = 0"),
        (lambda log_u: torch.exp(20 * log_u), "float32 holds what follows from f only to log u = 4"),
        (object(), "gives neither f"),
    ],
)
def test_what_is_no_divergence_is_refused(function, message):
    with pytest.raises(DivergenceError, match=message):
        fused(function)


def test_a_form_that_cancels_in_float32_is_refused():
    class Cancelling:
        def bregman(self, log_u):
            return (1e4 + torch.exp(log_u) * log_u - torch.expm1(log_u)) - 1e4

        def khat(self, log_u):
            return torch.exp(-log_u) * self.bregman(log_u)

        def grad_weight(self, log_u):
            return log_u

    with pytest.raises(DivergenceError, match=r"in float32 the value at log u = .* is far from that of float64"):
        fused(Cancelling())
