"""The comment at the head of a recipe: its title, and what it says under fixed headings.

```
# IPO: a squared loss whose optimum has a finite margin
# Paper: Azar et al. 2310.12036, equation 17
# Deviations: none in the loss, which is summed over an answer
#   as in the paper.
```
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HEADING = re.compile(r"# ([A-Z][a-z]+): (.*)")


@dataclass(frozen=True)
class Header:
    """What a recipe says of itself."""

    title: str
    """Its first line; empty without a comment."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Texts by heading, such as `Paper`; a text goes on over indented lines."""


def header(recipe: Path) -> Header:
    """The header of a recipe's file."""
    title, facts, heading = "", {}, ""
    for line in recipe.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not title:
            title = line[1:].strip()
        elif found := HEADING.fullmatch(line):
            heading = found[1]
            facts[heading] = found[2]
        elif heading:
            facts[heading] += f" {line[1:].strip()}"
    return Header(title, facts)
