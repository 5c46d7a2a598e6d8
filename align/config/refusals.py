"""Calls `refuse` of each part of a recipe: one traversal for `check`, `explain`, `audit` and the reference page."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from align.config.docstrings import format_part
from align.config.nodes import location
from align.config.parts import Part, Setting
from align.config.tracebacks import own_frames
from align.errors import RecipeError
from align.regularizers import ALLOW, Regularizer

WANTED = "it takes a Setting and returns None, or one sentence that says why the part cannot be used there"


class Refusal(NamedTuple):
    """Why a regularizer does not run as configured."""

    text: str
    biased: bool = False
    """True: the form is published, and `allow_biased` runs it. False: it has no meaning here."""

    @property
    def told(self) -> str:
        """The text of the error for a recipe."""
        return self.text + (ALLOW if self.biased else "")


def standing(recipe: Any) -> Iterator[tuple[Part, Setting]]:
    """Every part of the recipe and its setting; inner parts come before the part that contains them."""
    for key, kind, part in _held(recipe):
        yield from _inside(part, Setting(recipe=recipe, where=key, regularizer=part if kind == "regularizer" else None))


def refusal(part: Part, setting: Setting) -> str | None:
    """Why the part refuses its setting, or None. Raises RecipeError if `refuse` itself fails."""
    if (reason := part.misfit(setting)) is not None:
        return reason
    if not callable(part.refuse):
        raise RecipeError(setting.where, f"{location(type(part))}: `refuse` of {format_part(part)} is no method: {WANTED}")
    try:
        reason = part.refuse(setting)
    except (Exception, SystemExit) as error:
        frames = own_frames(error)
        if not frames:
            raise
        line = f"{frames[-1].filename}:{frames[-1].lineno}: {type(error).__name__}: {error}"
        raise RecipeError(setting.where, f"{line}\n`refuse` of {format_part(part)} failed: {WANTED}") from error
    if reason is None or (isinstance(reason, str) and reason.strip()):
        return reason
    raise RecipeError(setting.where, f"{location(type(part))}: `refuse` of {format_part(part)} returned {reason!r:.60}: {WANTED}")


def judged(regularizer: Regularizer, recipe: Any, name: str = "kl") -> Refusal | None:
    """The refusal of a regularizer or one of its parts, or None if the recipe runs. `allow_biased` allows biased forms."""
    setting = Setting(recipe=recipe, where=f"regularizers.{name}", regularizer=regularizer)
    text = _first(regularizer, setting)
    if text is None or regularizer.allow_biased or (bias := regularizer.bias(setting)) is None:
        return None if text is None else Refusal(text)
    allowed = dataclasses.replace(regularizer, allow_biased=True)
    beyond = _first(allowed, dataclasses.replace(setting, regularizer=allowed))
    return Refusal(bias, biased=True) if beyond is None else Refusal(text)


def _first(part: Part, setting: Setting) -> str | None:
    return next((reason for inner, at in _inside(part, setting) if (reason := refusal(inner, at)) is not None), None)


def _inside(part: Part, setting: Setting) -> Iterator[tuple[Part, Setting]]:
    for key, _, inner in _held(part):
        yield from _inside(inner, dataclasses.replace(setting, where=f"{setting.where}.{key}"))
    yield part, setting


def _held(owner: Any) -> Iterator[tuple[str, str, Part]]:
    """Key, kind and part, for each part directly inside a recipe or a part."""
    for f in dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ():
        held = getattr(owner, f.name)
        if "kind" not in f.metadata or held is None:
            continue
        for key, part in {f"{f.name}.{name}": inner for name, inner in held.items()}.items() if f.metadata["many"] else [(f.name, held)]:
            yield key, f.metadata["kind"], part
