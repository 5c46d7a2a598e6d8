"""Resolves an argument of the command line: a part by its name, or a class in a file, and its kind."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from align.config import registry
from align.config.suggestions import did_you_mean
from align.errors import RecipeError, UserError
from align.testing.findings import must_define

OPTIONAL = {
    "estimator": ("value", "grad_weight", "reward"),
    "loss_weighting": ("of_losses", "of_batch"),
    "shaping": ("rewards", "advantages"),
}
"""Identifying methods of kinds without abstract methods, whose methods all have defaults."""

DERIVED = ("critic", "reference")
"""Kinds with the same single abstract method: only the base class tells them apart."""


def kind_of(name: str, kinds: Iterable[str] = registry.ROOMS) -> str:
    """The kind of the part `name`, or of the class `file.py:Class`. Raises UserError if there is no kind or several."""
    kinds = tuple(kinds)
    found = _kinds_of_class(name, kinds) if ":" in name else [k for k in kinds if name in known(k)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{name} could be {', '.join(found)}: say which with --kind")
    if ":" in name:
        if near := _nearly(name, kinds):
            raise UserError(f"{name} {near}: define what it lacks, or say with --kind what it is to be")
        wanted = "; ".join(f"{k}: {', '.join(sorted(must_define(k)) or OPTIONAL[k])}" for k in kinds)
        raise UserError(f"{name} is of no kind by what it defines (a part defines, {wanted}): say which it is to be with --kind")
    hint = did_you_mean(name, [n for k in kinds for n in known(k)])
    raise UserError(f"no {' or '.join(kinds)} is called {name}" + f"; {hint}".rstrip("; "))


def known(kind: str) -> list[str]:
    return [*registry.shipped(kind), *registry.installed(kind)]


def keys(given: Iterable[str]) -> dict[str, Any]:
    """`key.path=value` words as nested data. Raises RecipeError for a word of another form."""
    node: dict[str, Any] = {}
    for word in given:
        if "=" not in word:
            raise RecipeError("", f"{word!r} is not of the form key=value")
        try:
            node = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.merge(node, OmegaConf.from_dotlist([word]))))
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise RecipeError(word, f"cannot be read: {error}") from error
    return node


def _kinds_of_class(name: str, kinds: tuple[str, ...]) -> list[str]:
    found = registry.user_object(name, name)
    if not isinstance(found, type):
        return [k for k in kinds if k in registry.OF_FUNCTION]
    derived = [k for k in kinds if issubclass(found, registry.contract(k))]
    if derived:
        return derived
    defined = {k: must_define(k) for k in kinds if k not in DERIVED}
    by_method = [k for k, methods in defined.items() if methods and all(_callable_as(found, method, k) for method in methods)]
    if len(by_method) > 1:
        by_method = [k for k in by_method if all(_names(found, m) == _names(registry.contract(k), m) for m in must_define(k))] or by_method
    return by_method or [k for k in kinds if any(hasattr(found, method) for method in OPTIONAL.get(k, ()))]


def _nearly(name: str, kinds: tuple[str, ...]) -> str:
    """Kinds with which the class shares methods, and the methods that it lacks; empty if it shares none."""
    found, looks = registry.user_object(name, name), []
    for kind in (k for k in kinds if k not in DERIVED):
        has = {method for method in must_define(kind) if _callable_as(found, method, kind)}
        if has:
            looks.append(f"looks like {_article(kind)} {kind}; lacks {', '.join(sorted(must_define(kind) - has))}")
    return ", or ".join(looks)


def _article(kind: str) -> str:
    return "an" if kind[0] in "aeiou" else "a"


def _callable_as(found: object, method: str, kind: str) -> bool:
    """Whether it defines the method, with as many arguments as in the contract."""
    if not hasattr(found, method):
        return False
    try:
        inspect.signature(getattr(found, method)).bind(*_names(registry.contract(kind), method))
    except TypeError:
        return False
    return True


def _names(cls: type, method: str) -> list[str]:
    return list(inspect.signature(getattr(cls, method)).parameters)
