"""What every shipped divergence claims to be: f of the ratio u, as its paper writes it. Shares nothing with the package.

`DEFINITIONS` has one entry for each file of the room, which `every` demands, so a new divergence is tested by being there. Each is
written for tensors and for mpmath alike: `log` is the caller's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from align.config import registry
from align.divergences import Divergence, StateFunctional


def power(u, log, q: float):
    """(u^q - u)/(q - 1), u log u at q = 1."""
    return u * log(u) if q == 1 else (u**q - u) / (q - 1)


def cressie_read(u, log, power: float):
    if power in (0, -1):
        return u * log(u) - u + 1 if power == 0 else u - 1 - log(u)
    return (u ** (power + 1) - u) / (power * (power + 1)) - (u - 1) / (power + 1)


def mixed_jsd(u, log, b: float):
    m = b + (1 - b) * u
    return b * log(1 / m) + (1 - b) * u * log(u / m)


DEFINITIONS: dict[str, Callable] = {
    "alpha": lambda u, log, alpha: (u ** (1 - alpha) - (1 - alpha) * u - alpha) / (alpha * (alpha - 1)),
    "chi_squared_kl": lambda u, log: (u - 1) ** 2 / 2 + u * log(u),
    "cressie_read": cressie_read,
    "forward_kl": lambda u, log: -log(u),
    "generalised_jsd": mixed_jsd,
    "hellinger": lambda u, log: (u**0.5 - 1) ** 2,
    "jeffreys": lambda u, log: u * log(u) - log(u),
    "jensen_shannon": lambda u, log: u * log(u) - (u + 1) * log((u + 1) / 2),
    "k2_functional": lambda u, log: u * log(u) ** 2 / 2,
    "neyman": lambda u, log: (u - 1) ** 2 / u,
    "pearson": lambda u, log: (u - 1) ** 2,
    "renyi": power,
    "reverse_kl": lambda u, log: u * log(u),
    "skew_kl": lambda u, log, lam: -log(lam + (1 - lam) * u),
    "skew_reverse_kl": lambda u, log, lam: u * log(u / (1 - lam + lam * u)),
    "total_variation": lambda u, log: abs(u - 1) / 2,
    "tsallis": power,
}
OF_MEAN = {"renyi": lambda mean, q: mean if q == 1 else torch.log(1 + (q - 1) * mean) / (q - 1)}
"""What is no f-divergence but a function of one."""
KEYS: dict[str, tuple[dict[str, float], ...]] = {
    "alpha": ({"alpha": 0.3}, {"alpha": 0.5}, {"alpha": 0.01}, {"alpha": 0.999}),
    "cressie_read": ({"power": 2 / 3}, {"power": -2.5}, {"power": -1.0}, {"power": -0.5}, {"power": 0.0}, {"power": 3.0}),
    "generalised_jsd": ({"b": 0.3}, {"b": 0.5}, {"b": 0.01}, {"b": 0.99}),
    "renyi": ({"q": 0.5}, {"q": 2.0}, {"q": 1.0}),
    "skew_kl": ({"lam": 0.1}, {"lam": 0.5}, {"lam": 0.9}, {"lam": 0.0}),
    "skew_reverse_kl": ({"lam": 0.1}, {"lam": 0.5}, {"lam": 0.9}, {"lam": 0.0}),
    "tsallis": ({"q": 0.3}, {"q": 1.5}, {"q": 0.01}, {"q": 0.5}, {"q": 0.999}, {"q": 1.0}, {"q": 1.001}, {"q": 2.0}),
}
"""Settings to test, typical ones first; no entry means no keys."""


class Known(NamedTuple):
    divergence: Divergence
    definition: Callable
    """f of u and log."""
    keys: dict[str, Any]

    def __call__(self, u: Tensor) -> Tensor:
        return self.definition(u, torch.log, **self.keys)

    def of_mean(self, mean: Tensor) -> Tensor:
        """The divergence of a state from `E_ref[f(u)]` there."""
        word = type(self.divergence).__name__.lower()
        return OF_MEAN[word](mean, **self.keys) if word in OF_MEAN else mean


def every(settings: int | None = None) -> dict[str, Known]:
    """Each shipped divergence by name and keys, in at most so many settings of its keys."""
    classes = {name: registry.resolve("divergence", name, name) for name in registry.shipped("divergence")}
    of_f = {name for name, cls in classes.items() if not issubclass(cls, StateFunctional)}
    assert set(DEFINITIONS) == of_f, "a divergence and its definition come together"
    found = {}
    for name, definition in DEFINITIONS.items():
        cls = registry.resolve("divergence", name, name)
        assert bool(dataclasses.fields(cls)) == (name in KEYS), f"{name}: keys are tested, and only keys"
        for keys in KEYS.get(name, ({},))[:settings]:
            found[name + "".join(f"_{value:g}" for value in keys.values())] = Known(cls(**keys), definition, keys)
    return found
