"""A function for every operation that a user may call."""

import torch

from align_kernels.codegen import Elementwise

BY_NAME = {
    "abs": lambda d: d.abs(),
    "clamp": lambda d: d.clamp(-0.3, 0.4) + d.clamp_min(0.1) + d.clamp_max(0.2),
    "cos": torch.cos,
    "comparisons": lambda d: torch.where((d > 0.1) & ~(d >= 0.7) | (d < -0.5), d, torch.where(d <= 0, 2 * d, d - 1)) * (d != 0.25),
    "div": lambda d: (d / 3 - 1) / (d * d + 2),
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log": lambda d: torch.log(1.5 + d * d),
    "log1p": lambda d: torch.log1p(d * d - 0.01),
    "log2": lambda d: torch.log2(0.5 + d * d),
    "logaddexp": lambda d: torch.logaddexp(d, -2 * d),
    "logsigmoid": torch.nn.functional.logsigmoid,
    "maximum": lambda d: torch.maximum(d, 0.3 * d * d) + torch.minimum(d, d.new_tensor(0.3)),
    "pow": lambda d: d**2 - d**3 + (1 + d * d) ** -1.5 + torch.exp(d) ** 0.3 + 2.0**d,
    "reciprocal": lambda d: torch.reciprocal(2 + d * d),
    "relu": torch.relu,
    "rsqrt": lambda d: torch.rsqrt(1 + d * d),
    "sigmoid": torch.sigmoid,
    "sign": lambda d: torch.sign(d) * d,
    "sin": torch.sin,
    "softplus": torch.nn.functional.softplus,
    "sqrt": lambda d: torch.sqrt(1 + d * d),
    "smooth_l1": lambda d: torch.nn.functional.smooth_l1_loss(d, torch.zeros_like(d), reduction="none", beta=0.5),
    "tanh": torch.tanh,
    "tensor constants": lambda d: torch.tensor(0.5) * d + torch.zeros_like(d) + torch.full_like(d, 0.25),
}


def weighted(name: str) -> Elementwise:
    """The function of a - b, weighted so that it is no f-divergence."""
    return Elementwise(lambda a, b: torch.exp((a + b) / 2) * (1 + 0.1 * a) * BY_NAME[name](a - b))


EVERY_ONE = Elementwise(lambda a, b: torch.exp(a) * sum(function(a - b) for function in BY_NAME.values()))
