"""What `explain` prints, in sections."""

import io

from rich.console import Console

from align.config.recipes import build
from align.inspect.explain import show

PARTS = """
from align.algorithms import Algorithm
from align.regularizers import Regularizer
from align.config.nodes import part
from dataclasses import dataclass
from typing import Any

class Silent:
    '''Answers nothing.'''

    def start(self, *args): ...

@dataclass(frozen=True)
class Plain(Algorithm):
    '''Policy gradient without a baseline. More words.'''

    reduction: Any = part("reduction", "token")
    gain: float = 1.0

    def loss(self, ctx, advantages): ...

class Told(Plain):
    '''A policy gradient that says what it maximises.'''

    def formula(self):
        return f"{self.gain:g} · ρ A"

    def symbols(self):
        return {"A": "reward − its mean"}

@dataclass(frozen=True)
class Own(Regularizer):
    '''The squared length of an answer. Not a divergence.'''

    coefficient: Any = part("coefficient")
    longest: int = 9
    '''Tokens.'''

    def penalty(self, ctx, name): ...
"""


def recipe_of(parts: str, **changes) -> dict:
    """A small recipe, whose engine is one of `PARTS`."""
    return {
        "steps": 10,
        "task": "countdown",
        "reward": "countdown_exact",
        "algorithm": {"name": "grpo", "reduction": "constant"},
        "engine": f"{parts}:Silent",
        "model": {"config": {"model_type": "qwen2"}},
        "batch": {"prompts": 16, "samples": 4},
        "sampling": {"max_tokens": 24},
        "workers": {"rollout": 2},
        "regularizers": {"kl": {"coefficient": 0.03}},
    } | changes


def told(parts: str, **changes) -> dict[str, dict[str, str]]:
    """Section -> label -> text of what is printed; rows without a label are joined under the one above."""
    console = Console(file=io.StringIO(), width=400)
    show(build(recipe_of(parts, **changes)), console)
    sections, label = {}, ""
    for line in console.file.getvalue().splitlines():
        if line.strip() and not line.startswith(" "):
            section = sections.setdefault(line.strip(), {})
        elif line.strip():
            head, _, text = line[2:].rstrip().partition("  ")
            label = head.strip() or label
            section[label] = f"{section[label]}\n{text.strip()}" if label in section else text.strip()
    return sections
