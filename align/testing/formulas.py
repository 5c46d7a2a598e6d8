"""The check of `formula` and `symbols`, for every part of an objective."""

from __future__ import annotations

from align.config.formulas import Formulated, not_stated, unstated

MEND = (
    "define formula(self) -> str: its maths with the values of its keys; for a loss, the maximised objective; symbols(self) is optional "
    "and returns texts"
)


def explained(part: Formulated) -> str | None:
    """What is wrong with its formula and symbols, or None."""
    if (owner := unstated(part)) is not None:
        return not_stated(owner)
    texts = [part.formula(), *part.symbols(), *part.symbols().values()]
    return None if all(isinstance(t, str) and t.strip() for t in texts) else "a formula or symbol is no text"
