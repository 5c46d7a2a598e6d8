"""Builds parts from a recipe's nodes. Every node is checked against its dataclass: an error for an unknown key or a wrong type names the
path and the nearest key.

OmegaConf cannot choose between schemas itself (a base-typed field rejects a subclass's keys, and a Union merges into its default), so
the name is first resolved to a class, and the node is then merged into that class's schema.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints
from weakref import WeakKeyDictionary

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from align import plugins
from align.config import ranges, registry
from align.config.parts import location
from align.config.paths import absolute_files
from align.config.suggestions import did_you_mean
from align.config.tracebacks import own_frames
from align.errors import RecipeError, UserError
from align.plugins import Plugin

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = TypeVar("P", bound="DataclassInstance")


def part(kind: str, default: Any = dataclasses.MISSING, *, many: bool = False, optional: bool = False, learns: bool = True) -> Any:
    """A dataclass field that holds a part of this kind (with `many`, a mapping from names to parts). `learns`: see `section`.

    In Python the field accepts the values of a recipe (a name, a mapping with `name`, a number if the room allows one), a part, or a
    class, and converts them to a part. None means no part.
    """
    metadata = {"kind": kind, "many": many, "default": {} if many else None if optional else default, "learns": learns}
    return dataclasses.field(metadata=metadata, default=_Held(metadata), kw_only=True)


class _Held:
    """The descriptor behind `part`: it converts every assigned value to a part."""

    def __init__(self, metadata: dict[str, Any]):
        self._metadata = metadata

    def __set_name__(self, owner: type, name: str) -> None:
        self._name, self._where = name, f"{_title(owner)}.{name}"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return None if instance is None else instance.__dict__[self._name]

    def __set__(self, instance: Any, value: Any) -> None:
        if value is self:  # the dataclass passes the descriptor as default: no value was given
            value = _parts(self._metadata, self._metadata["default"], self._where)
        elif value is not None:
            value = _parts(self._metadata, absolute_files(value, Path.cwd()), self._where)
        instance.__dict__[self._name] = value

    def __repr__(self) -> str:
        default = self._metadata["default"]
        return f"<a {self._metadata['kind']}>" if default is dataclasses.MISSING else repr(default)


def section(cls: type, *, learns: bool = True) -> Any:
    """A dataclass field that holds a nested group of keys described by the dataclass `cls`.

    `learns`: whether these keys can change the trained model. If not, a resumed run may change them.
    """
    return dataclasses.field(metadata={"section": cls, "learns": learns}, default_factory=cls, kw_only=True)


def learned_from(cls: type, node: dict) -> dict:
    """The keys of a resolved node of `cls` whose field has `learns`: they can change the trained model."""
    known = {f.name: f.metadata for f in dataclasses.fields(cls)}
    found = {}
    for key, value in node.items():
        metadata = known.get(key, {})
        if metadata.get("learns", True):
            found[key] = learned_from(metadata["section"], value) if "section" in metadata and isinstance(value, dict) else value
    return found


def build_part(kind: str, node: Any, where: str) -> Any:
    """The part that a recipe node names: `"tsallis"`, `{name: tsallis, q: 0.5}`, or a scalar if the room allows one.

    In Python the node may also be a built part, or a class.
    """
    if isinstance(node, registry.contract(kind)):
        return _named(node)
    if inspect.isclass(node) or inspect.isfunction(node):
        return _named(build(registry.completed_part(kind, node, where), {}, where))
    if not isinstance(node, str | int | float | dict | list | None):
        raise RecipeError(
            where,
            f"must be a {kind}, and {node!r:.80} is none: derive {type(node).__name__} from "
            f"{registry.ROOMS[kind]}.{registry.contract(kind).__name__}, or give the class itself",
        )
    if not isinstance(node, dict | str):
        shorthand = getattr(registry.contract(kind), "shorthand", None)
        if shorthand is None or node is None:
            raise RecipeError(where, f"names no {kind}: write the name of one, or {{name: ..., its keys}}")
        node = shorthand(node)
    node = {"name": node} if isinstance(node, str) else dict(node)
    default_name = getattr(registry.contract(kind), "default_name", None)
    name = node.pop("name", default_name)
    if not isinstance(name, str):
        raise RecipeError(where, f"has no `name`; {kind}s are: {', '.join(registry.shipped(kind))}")
    cls = registry.resolve(kind, name, where)
    plugin = plugins.loaded(name.rpartition(":")[0])
    built = build(cls, node, where)
    object.__setattr__(built, "recipe_name", name)
    object.__setattr__(built, "recipe_plugin", plugin)
    return built


def _named(built: P) -> P:
    """The part with its `recipe_name` set, so that a worker can build it again."""
    if not hasattr(built, "recipe_name"):
        object.__setattr__(built, "recipe_name", registry.name_of(type(built)))
        object.__setattr__(built, "recipe_plugin", None)
    return built


def build(cls: type[P], node: dict, where: str) -> P:
    """An instance of the dataclass `cls` from a recipe node; its parts and sections are built first.

    Raises: RecipeError at the dotted path of the wrong key.
    """
    if not isinstance(node, dict):
        raise RecipeError(where, f"must be a mapping of keys, not {node!r}")
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in node:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise RecipeError(_join(where, key), f"unknown key; {hint}{_title(cls)} takes: {', '.join(known) or 'no keys'}")
    plain = [f for f in known.values() if not {"section", "kind"} & f.metadata.keys()]
    values = _typed(cls, plain, {f.name: node[f.name] for f in plain if f.name in node}, where)
    for f in known.values():
        if "section" in f.metadata:
            inner = node.get(f.name)
            values[f.name] = build(f.metadata["section"], {} if inner is None else inner, _join(where, f.name))
        elif "kind" in f.metadata:
            values[f.name] = _parts(f.metadata, node.get(f.name, f.metadata["default"]), _join(where, f.name))
    try:
        return cls(**values)
    except UserError as error:
        raise RecipeError(where or _title(cls), str(error)) from error
    except (Exception, SystemExit) as error:
        if isinstance(error, ValueError | TypeError):
            raise RecipeError(where or _title(cls), str(error)) from error
        frames = own_frames(error)
        if not frames:
            raise
        place = f"{frames[-1].filename}:{frames[-1].lineno}"
        raise RecipeError(where or _title(cls), f"{place}: {type(error).__name__}: {str(error) or '(no message)'}") from error


def _parts(metadata: Mapping[str, Any], node: Any, where: str) -> Any:
    kind = metadata["kind"]
    if metadata["many"]:
        if node is None:
            return {}
        if not isinstance(node, dict):
            raise RecipeError(where, f"must map a name of your choice to a {kind}")
        return {name: build_part(kind, child, _join(where, name)) for name, child in node.items() if child is not None}
    default = metadata["default"]
    if node is dataclasses.MISSING or (node is None and default is not None):
        raise RecipeError(where, f'must name its {kind}: {", ".join(registry.shipped(kind))}, or your own as "./file.py:Class"')
    if isinstance(node, dict) and isinstance(default, str):
        node = {"name": default} | node
    return None if node is None else build_part(kind, node, where)


_SCHEMAS: WeakKeyDictionary[type, DictConfig] = WeakKeyDictionary()
"""Cached schema of each class (keys, types, defaults): making one takes longer than the rest of building a part."""
_HINTS: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()
"""Its annotations with their ranges."""


def _schema(cls: type, plain: list[dataclasses.Field], where: str) -> DictConfig:
    try:
        hints = get_type_hints(cls)
    except NameError as error:
        raise RecipeError(where, f"{location(cls)}: an annotation of {_title(cls)} cannot be read: {error}") from error
    required = [(f.name, hints[f.name]) for f in plain if f.default is f.default_factory is dataclasses.MISSING]
    with_default = [
        (
            f.name,
            hints[f.name],
            dataclasses.field(default=f.default)
            if f.default is not dataclasses.MISSING
            else dataclasses.field(default_factory=f.default_factory),
        )
        for f in plain
        if f.name not in dict(required)
    ]
    try:
        return OmegaConf.structured(dataclasses.make_dataclass(cls.__name__, [*required, *with_default]))
    except OmegaConfBaseException as error:
        raise RecipeError(where, f"{_title(cls)} has a key of a type that YAML cannot hold: {error}") from error


def _typed(cls: type, plain: list[dataclasses.Field], node: dict, where: str) -> dict:
    if cls not in _SCHEMAS:
        _SCHEMAS[cls] = _schema(cls, plain, where)
        _HINTS[cls] = get_type_hints(cls, include_extras=True)
    schema = deepcopy(_SCHEMAS[cls]) if node else _SCHEMAS[cls]
    for key, value in node.items():
        try:
            OmegaConf.update(schema, key, value, merge=True)
            if OmegaConf.is_interpolation(schema, key):
                raise RecipeError(_join(where, key), f"{value!r}: recipes hold values, not interpolations; write the value")
        except (OmegaConfBaseException, OverflowError, TypeError, ValueError) as error:
            hint = get_type_hints(cls)[key]
            wanted = getattr(hint, "__name__", str(hint))
            raise RecipeError(_join(where, key), f"{_short_text(value)} is not of type {wanted} ({str(error).splitlines()[0]})") from error
    missing = [f.name for f in plain if OmegaConf.is_missing(schema, f.name)]
    if missing:
        raise RecipeError(_join(where, missing[0]), f"must be given: {_title(cls)} has no default for it")
    values = cast("dict[str, Any]", OmegaConf.to_container(schema))
    for key, value in values.items():
        if (reason := ranges.refusal(value, _HINTS[cls][key])) is not None:
            raise RecipeError(_join(where, key), reason)
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _short_text(value: Any) -> str:
    """The start of a value; a number of thousands of digits has no text."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."


def resolved(built: Any) -> Any:
    """The recipe node that builds the same object again, with every default written out."""
    if isinstance(built, dict):
        return {k: resolved(v) for k, v in built.items()}
    if not dataclasses.is_dataclass(built):
        return list(built) if isinstance(built, tuple) else built
    name = getattr(built, "recipe_name", None)
    node = {} if name is None else {"name": name}
    return node | {f.name: resolved(getattr(built, f.name)) for f in dataclasses.fields(built) if f.init}


def plugins_of(built: Any) -> tuple[Plugin, ...]:
    """The plugins of its parts, which a worker needs to build them again."""
    found: dict[str, Plugin] = {}
    _gather(built, found)
    return tuple(found.values())


def _gather(built: Any, found: dict[str, Plugin]) -> None:
    if isinstance(built, dict):
        inner = list(built.values())
    elif dataclasses.is_dataclass(built):
        inner = [getattr(built, f.name) for f in dataclasses.fields(built) if f.init]
        plugin = getattr(built, "recipe_plugin", None)
        found |= {} if plugin is None else {plugin.package: plugin}
    else:
        return
    for child in inner:
        _gather(child, found)


def _title(cls: type) -> str:
    return getattr(cls, "title", None) or cls.__name__


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)
