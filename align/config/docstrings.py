"""Reads a part's documentation: its docstring's first line, its keys with defaults, and the docstring of each key."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import textwrap
from typing import Any, NamedTuple, get_args, get_type_hints

from align.config import ranges
from align.config.nodes import resolved


class Key(NamedTuple):
    name: str
    type: str
    default: Any
    """As in a recipe; None also for a key without a default (then `required`)."""
    required: bool
    doc: str


def summary(thing: Any) -> str:
    """The first paragraph of a class's or function's docstring, in one line; empty without a docstring."""
    doc = thing.__doc__ or ""
    if isinstance(thing, type) and doc.startswith(f"{thing.__name__}("):
        return ""  # `dataclass` set the signature as docstring
    return " ".join(inspect.cleandoc(doc).split("\n\n")[0].split())


def sentence(thing: Any) -> str:
    """The first sentence of the docstring."""
    return re.split(r"(?<!\bal)\.\s", summary(thing))[0].removesuffix(".")


def keys(cls: type) -> list[Key]:
    """The recipe keys of a part."""
    docs = _attribute_docs(cls)
    hints = get_type_hints(cls, include_extras=True)
    found = []
    for f in dataclasses.fields(cls):
        if not f.init:
            continue
        default, required = _default(f)
        kind = f.metadata.get("kind")
        type_name = f"{kind}s" if f.metadata.get("many") else kind or _type_name(f.name, cls, hints)
        found.append(Key(f.name, type_name, default, required, docs.get(f.name, "")))
    return found


def format_part(part: Any) -> str:
    """The part with its keys, as in `tsallis(q=0.5)`."""
    return _call({"name": type(part).__name__} | resolved(part))


def _call(node: dict[str, Any]) -> str:
    inner = ", ".join(
        f"{key}={_call(value) if isinstance(value, dict) and 'name' in value else value}" for key, value in node.items() if key != "name"
    )
    return f"{node['name']}({inner})" if inner else str(node["name"])


def _default(f: dataclasses.Field) -> tuple[Any, bool]:
    if "section" in f.metadata:
        return {}, False
    if "kind" in f.metadata:
        default = f.metadata["default"]
        return (None, True) if default is dataclasses.MISSING else (default, False)
    if f.default is not dataclasses.MISSING:
        return f.default, False
    return (None, True) if f.default_factory is dataclasses.MISSING else (f.default_factory(), False)


def _type_name(name: str, cls: type, hints: dict[str, Any]) -> str:
    """As in "float | None, above 0"."""
    plain = get_type_hints(cls)[name]
    shown = plain.__name__ if isinstance(plain, type) and not get_args(plain) else str(plain).replace("typing.", "")
    return ", ".join(filter(None, [shown, ranges.constraint_text(hints[name])]))


@functools.cache  # reading source takes milliseconds, and a refusal names keys for every cell of a table
def _attribute_docs(cls: type) -> dict[str, str]:
    """The docstring of each field, from the source code. Empty for a plugin whose file is not on this machine."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        try:
            written = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError):
            continue
        for field, doc in itertools.pairwise(written.body if isinstance(written, ast.ClassDef) else ()):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(doc, ast.Expr)
                and isinstance(doc.value, ast.Constant)
                and isinstance(doc.value.value, str)
            ):
                docs[field.target.id] = " ".join(doc.value.value.split())
    return docs
