"""Calls `refuse` of each part of a recipe: one traversal for `check`, `explain`, `audit` and the reference page."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from align.config.docstrings import format_part
from align.config.parts import Part, Setting, location
from align.config.returned import values_checked
from align.config.tracebacks import own_frames
from align.errors import RecipeError
from align.oracle.measure import NAME as ENUMERATED
from align.oracle.measure import claimed_divergence
from align.oracle.verdict import judge, lowers
from align.regularizers import ALLOW, Regularizer
from align.regularizers.composed import Composed

WANTED = "it takes a Setting and returns None, or one sentence that says why the part cannot be used there"
IDLE = "allow_biased changes nothing: this form has the value and the gradient it claims"


class Refusal(NamedTuple):
    """Why a regularizer does not run as configured."""

    text: str
    biased: bool = False
    """True: the form is published, and `allow_biased` runs it. False: it has no meaning here."""

    @property
    def message(self) -> str:
        """The text of the error for a recipe."""
        return self.text + (ALLOW if self.biased else "")


def parts_with_settings(recipe: Any) -> Iterator[tuple[Part, Setting]]:
    """Every part of the recipe and its setting; inner parts come before the part that contains them."""
    for key, kind, part in _direct_parts(recipe):
        yield from _nested_parts(part, Setting(recipe=recipe, where=key, regularizer=part if kind == "regularizer" else None))


def refusal(part: Part, setting: Setting) -> str | None:
    """Why the part refuses its setting, or None; a regularizer that is biased counts. Raises RecipeError if `refuse` itself fails."""
    if (reason := _reason(part, setting)) is not None or not isinstance(part, Regularizer):
        return reason
    unsound = _bias_refusal(part, setting)
    return None if unsound is None else unsound.message


def _reason(part: Part, setting: Setting) -> str | None:
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


def regularizer_refusal(regularizer: Regularizer, recipe: Any, name: str = "kl") -> Refusal | None:
    """The refusal of a regularizer or one of its parts, or None if the recipe runs. `allow_biased` allows biased forms."""
    setting = Setting(recipe=recipe, where=f"regularizers.{name}", regularizer=regularizer)
    for inner, at in _nested_parts(regularizer, setting):
        if (reason := _reason(inner, at)) is not None:
            return Refusal(reason)
    return _bias_refusal(regularizer, setting)


def bias(regularizer: Regularizer, setting: Setting) -> str | None:
    """What is wrong with the value or gradient of a regularizer that has a meaning in its setting, or None: as it states itself, else
    measured by enumeration. Recipes refuse it, and `audit` certifies it as biased. Raises RecipeError if a user's part fails on tensors.
    """
    if stated := regularizer.bias(setting):
        return stated
    try:
        with values_checked():
            found = judge(regularizer, setting.recipe.algorithm)
    except RecipeError as error:
        raise RecipeError(error.where.replace(f"regularizers.{ENUMERATED}", setting.where), error.problem) from error
    except IndexError:
        return None  # a part with token ids of its model reaches beyond the few tokens of the enumeration
    except Exception as error:
        frames = own_frames(error)
        if not isinstance(regularizer, Composed):
            return None  # it may read what only a real batch has; `align audit` shows the error, and the learner checks what it returns
        if not frames:
            raise
        line = f"{frames[-1].filename}:{frames[-1].lineno}: {type(error).__name__}: {error}"
        raise RecipeError(setting.where, f"{line}\nit failed on a batch of enumerated answers; `align audit` shows it alone") from error
    return found.reason if found.kind == "biased" else None


def _bias_refusal(regularizer: Regularizer, setting: Setting) -> Refusal | None:
    """The refusal of a biased form, or of `allow_biased` at a form without bias."""
    wrong = bias(regularizer, setting)
    if wrong is not None:
        return _runaway_refusal(regularizer, setting) if regularizer.allow_biased else Refusal(wrong, biased=True)
    return Refusal(IDLE) if regularizer.allow_biased and claimed_divergence(regularizer) is not None else None


def _runaway_refusal(regularizer: Regularizer, setting: Setting) -> Refusal | None:
    """The refusal of a coefficient that follows the divergence beside an allowed gradient that does not lower it."""
    coefficient = regularizer.coefficient
    if not (coefficient.listens or coefficient.listens_by_prompt) or lowers(regularizer, setting.recipe.algorithm):
        return None
    return Refusal(
        f"coefficient {format_part(coefficient)} raises beta while the divergence is above its target, and the gradient of this form does "
        "not lower the divergence: beta would grow without end. Use a constant coefficient, or estimator: sampled"
    )


def _nested_parts(part: Part, setting: Setting) -> Iterator[tuple[Part, Setting]]:
    for key, _, inner in _direct_parts(part):
        yield from _nested_parts(inner, dataclasses.replace(setting, where=f"{setting.where}.{key}"))
    yield part, setting


def _direct_parts(owner: Any) -> Iterator[tuple[str, str, Part]]:
    """Key, kind and part, for each part directly inside a recipe or a part."""
    for f in dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ():
        held = getattr(owner, f.name)
        if "kind" not in f.metadata or held is None:
            continue
        for key, part in {f"{f.name}.{name}": inner for name, inner in held.items()}.items() if f.metadata["many"] else [(f.name, held)]:
            yield key, f.metadata["kind"], part
