"""A plain function as a reward: its annotated parameters with defaults are its keys."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_origin, get_type_hints

from align.rewards import Answer, Reward
from align.types import Prompt

GIVEN = ("prompt", "response")
"""What `score` gets."""
WANTED = (
    "a reward function takes `prompt` and `response`, or one of them, then its keys, each with annotation and default: "
    "def my_reward(prompt, response, *, penalty: float = 0.1)"
)
BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def reward_of(function: Callable[..., Any]) -> type[Reward]:
    """The reward that calls `function(prompt=..., response=..., **keys)`, with those of the first two that it takes.

    Raises TypeError for another signature, naming the parameter and what is expected.
    """
    name, parameters = function.__name__, inspect.signature(function).parameters
    given = [p for p in parameters if p in GIVEN]
    if not given:
        raise TypeError(f"{name}{inspect.signature(function)} takes no answer; {WANTED}")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"{name} is a coroutine or a generator, and is called once for an answer; {WANTED}")
    hints = _hints(function)
    keys = [_key(name, p, hints) for p in parameters.values() if p.name not in GIVEN or p.kind not in BY_NAME]

    def score(self: Reward, prompt: Prompt, response: str) -> Answer:
        values = {"prompt": prompt, "response": response}
        return function(**{p: values[p] for p in given}, **{key: _value(getattr(self, key), hint) for key, hint, _ in keys})

    body = {"__module__": function.__module__, "__qualname__": name, "__doc__": function.__doc__ or "", "score": score}
    made = dataclasses.make_dataclass(name, keys, bases=(Reward,), namespace=body, frozen=True)
    made.__wrapped__ = function  # where `inspect` finds its source
    return made


def _value(value: Any, hint: Any) -> Any:
    """A recipe holds lists as tuples: a function that says list gets one, which is its own to change."""
    return list(value) if isinstance(value, tuple) and list in (hint, get_origin(hint)) else value


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError as error:
        raise TypeError(f"{function.__name__} has an annotation that cannot be read: {error}") from error


def _key(function: str, parameter: inspect.Parameter, hints: dict[str, Any]) -> tuple[str, Any, Any]:
    """Name, type and default as a field of a dataclass."""
    name, default = parameter.name, parameter.default
    if parameter.kind not in BY_NAME:
        raise TypeError(f"{function} takes {parameter}, which is not given by name; {WANTED}")
    if default is parameter.empty:
        raise TypeError(f"{function} takes {name}, which has no default and is neither `prompt` nor `response`; {WANTED}")
    if name not in hints:
        raise TypeError(
            f"{function} takes {name}={default!r} without an annotation; annotate it: {name}: {type(default).__name__} = {default!r}"
        )
    if hasattr(Reward, name) or name == "name":
        raise TypeError(f"{function} takes a key {name}, which every reward has; call it otherwise")
    return name, hints[name], dataclasses.field(default_factory=lambda: copy.deepcopy(default))
