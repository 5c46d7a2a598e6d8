"""What every part of an objective says of its maths."""

from __future__ import annotations

from align.config.formulas import Formulated


def explained(part: Formulated) -> str | None:
    """What is wrong with its formula and symbols, or None."""
    texts = [part.formula(), *part.symbols(), *part.symbols().values()]
    return None if all(isinstance(t, str) and t.strip() for t in texts) else "a formula or symbol is no text"
