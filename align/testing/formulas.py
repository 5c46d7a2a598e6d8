"""What every part of an objective says of its maths."""

from __future__ import annotations

from align.config.formulas import Formulated, not_stated, unstated

MEND = (
    "define formula(self) -> str: its maths with the values of its keys in it, of a loss what is maximised; symbols(self) returns texts, "
    "or is left out"
)


def explained(part: Formulated) -> str | None:
    """What is wrong with its formula and symbols, or None."""
    if (owner := unstated(part)) is not None:
        return not_stated(owner)
    texts = [part.formula(), *part.symbols(), *part.symbols().values()]
    return None if all(isinstance(t, str) and t.strip() for t in texts) else "a formula or symbol is no text"
