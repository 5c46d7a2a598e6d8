"""Refuses fields without an annotation: a dataclass ignores them, so the key would be unknown or keep the base's default."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap

from align.errors import RecipeError

KEY_TYPES = (bool, int, float, str)


def refuse_unannotated(found: type, contract: type, where: str) -> None:
    """Raises RecipeError for `q = 0.5` in a user's class: a public number or string that is neither a constant nor in the contract."""
    package = found.__module__.partition(".")[0]
    for cls in (c for c in found.__mro__ if c.__module__.partition(".")[0] == package != "align"):
        for name, value in vars(cls).items():
            if type(value) in KEY_TYPES and _looks_like_a_key(name) and not _annotated(name, cls) and _has_no_meaning(name, cls, contract):
                raise RecipeError(
                    where,
                    f"{_place(cls, name)}: {cls.__name__}.{name} has no annotation, so it is no key; annotate it: "
                    f"`{name}: {type(value).__name__} = {value!r}` (or, for a constant, {name.upper()} = {value!r})",
                )


def _looks_like_a_key(name: str) -> bool:
    return not name.startswith("_") and not name.isupper()


def _annotated(name: str, cls: type) -> bool:
    return name in inspect.get_annotations(cls)


def _has_no_meaning(name: str, cls: type, contract: type) -> bool:
    """Whether no base class (the contract included) has the attribute, or it is a field there, whose default would stay."""
    if any(name in {f.name for f in dataclasses.fields(base)} for base in cls.__mro__[1:] if dataclasses.is_dataclass(base)):
        return True
    bases = (*cls.__mro__[1:], contract)
    return not any(hasattr(base, name) or any(name in inspect.get_annotations(c) for c in base.__mro__) for base in bases)


def _place(cls: type, name: str) -> str:
    file = inspect.getsourcefile(cls)
    try:
        lines, first = inspect.getsourcelines(cls)
    except OSError:
        return str(file)
    (written,) = ast.parse(textwrap.dedent("".join(lines))).body
    body = written.body if isinstance(written, ast.ClassDef) else []
    line = next((n.lineno for n in body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name) and t.id == name), 1)
    return f"{file}:{first + line - 1}"
