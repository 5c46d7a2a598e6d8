"""The result of a conformance check, and the kit of checks of one kind of part."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from inspect import isfunction
from typing import Any, NamedTuple

from torch import Tensor

from align.audit.default_recipe import default_setting
from align.config import nodes, registry
from align.config.docstrings import summary
from align.config.refusals import refusal
from align.config.tracebacks import own_frames
from align.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check of one part."""

    name: str
    passed: bool
    expected: str
    found: str
    """The problem; empty if the check passed."""
    mend: str
    """How to fix it; empty if an earlier check has the same cause."""


class Check(NamedTuple):
    name: str
    expected: str
    mend: str
    test: Callable[..., str | None]
    """What is wrong with a part, or None."""


class Kit:
    """The checks of one kind. A check is a function of a built part: its docstring is the expectation, and it returns the problem or None.

    A part is given by name, as a class (which need not derive from anything) or function with its keys, or built.
    """

    def __init__(self, kind: str):
        self.kind, self.checks = kind, list(GENERAL)

    def check(self, name: str, mend: str) -> Callable:
        def kept(test: Callable[..., str | None]) -> Callable[..., str | None]:
            if test.__doc__ is None:
                raise TypeError(f"the check {name!r} has no docstring, which must state its expectation")
            self.checks.append(Check(name, " ".join(test.__doc__.split()), mend, test))
            return test

        return kept

    def run(self, part: Any, keys: dict[str, Any], **needs: Any) -> list[Finding]:
        """Every check in order, or one failure if the part cannot be built. `needs`: other arguments of the checks."""
        built = _found(lambda: self._build(part, keys))
        if isinstance(built, str):
            return [
                Finding(
                    name="is built",
                    passed=False,
                    expected="the class with these keys becomes a part",
                    found=built,
                    mend=f"define what a {self.kind} must ({', '.join(sorted(must_define(self.kind))) or 'nothing'}), and give "
                    "every key without a default",
                )
            ]
        return self.findings(built, None, **needs)

    def findings(self, built: Any, names: Collection[str] | None, **needs: Any) -> list[Finding]:
        """The findings of a built part: of the checks with these names, or of all."""
        findings: list[Finding] = []
        for check in self.checks:
            if names is not None and check.name not in names:
                continue
            finding = _finding(check, lambda test=check.test: test(built, **needs))
            findings.append(_folded(finding, findings))
        return findings

    def _build(self, part: Any, keys: dict[str, Any]) -> Any:
        if isinstance(part, str):
            return nodes.build_part(self.kind, {"name": part} | keys, part)
        if isinstance(part, type) or isfunction(part):
            return nodes.build(registry.completed_part(self.kind, part, part.__name__), keys, part.__name__)
        if not isinstance(part, registry.contract(self.kind)):
            raise TypeError(f"a {type(part).__name__} is no {self.kind} yet: give the class, and its keys")
        return part


def shown(numbers: Tensor | float) -> str:
    """A number, or those of a tensor [n] as a list, to four significant digits."""
    if isinstance(numbers, Tensor) and numbers.ndim:
        return f"[{', '.join(f'{x:.4g}' for x in numbers.tolist())}]"
    return f"{float(numbers):.4g}"


def must_define(kind: str) -> frozenset[str]:
    """The methods that a part of this kind must define."""
    return getattr(registry.contract(kind), "__abstractmethods__", frozenset())


def again(part: Any) -> Any:
    """The same part built a second time, from its keys in a recipe."""
    node = nodes.resolved(part)
    node.pop("name", None)
    return nodes.build(type(part), node, type(part).__name__)


def _found(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as error:  # an exception of the part is the problem
        frames = own_frames(error)
        place = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames and not isinstance(error, RecipeError) else ""
        return f"{place}{type(error).__name__}: {str(error).strip() or 'without a message'}"


def _finding(check: Check, call: Callable[[], str | None]) -> Finding:
    found = _found(call)
    return Finding(name=check.name, passed=found is None, expected=check.expected, found=found or "", mend=check.mend)


def _folded(finding: Finding, before: list[Finding]) -> Finding:
    """A failure with the same cause as an earlier one refers to it: a second remedy would mislead."""
    first = next((f for f in before if not f.passed and f.found == finding.found), None)
    return finding if finding.passed or first is None else replace(finding, found=f"the same as above: {first.name}", mend="")


def _says_what_it_is(part: Any, **_: Any) -> str | None:
    return None if summary(type(part)) else f"{type(part).__name__} has no docstring"


def _keys_round_trip(part: Any, **_: Any) -> str | None:
    node = nodes.resolved(part)
    json.dumps(node)
    node.pop("name", None)
    copied = nodes.resolved(again(part))
    copied.pop("name", None)
    differing = [key for key in node if copied[key] != node[key]]
    return f"{', '.join(differing)} came back otherwise" if differing else None


def _refuses(part: Any, **_: Any) -> str | None:
    for on_policy, samples in ((True, True), (False, True), (True, False)):
        refusal(part, default_setting(part, on_policy=on_policy, samples=samples))  # raises where there is no answer
    return None


GENERAL = (
    Check(
        "docstring",
        "the class's docstring describes it in one sentence, with units and the paper",
        "write a docstring under `class`",
        _says_what_it_is,
    ),
    Check(
        "keys",
        "its keys are plain values, from which a recipe can build it again",
        "annotate every key (`power: float = 0.5`) and change none in __post_init__",
        _keys_round_trip,
    ),
    Check(
        "refuse",
        "`refuse` returns None or a sentence, on- and off-policy and for demonstrations",
        "return None from `refuse(self, setting)`, or the problem and the remedy; see align.config.parts.Setting",
        _refuses,
    ),
)
