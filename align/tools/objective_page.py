"""`python -m align.tools.objective_page > docs/objective.md`: the parts of an objective in tables, computed from the parts themselves."""

from __future__ import annotations

from align.algorithms import Algorithm
from align.config import registry
from align.config.nodes import build_part
from align.tools.reference_page import Fact, code, needs, prose, room, table

INTRODUCTION = """\
# Objectives

Made by `python -m align.tools.objective_page > docs/objective.md`; a test holds it to the code. `align list KIND` prints every key with its
meaning, `align explain RECIPE` the objective that a recipe comes to, each part with its own formula and its file.

An algorithm is a kind of data and the parts below; the regularizers are beside it ([regularizers.md](regularizers.md)). A part is named by
its word, or with its keys: `surrogate: clipped`, `surrogate: {name: dual_clip, ceiling: 4}`, and of the default part by its keys alone:
`surrogate: {clip_high: 0.28}`. Your own is `"./mine.py:Mine"`, or an entry point of the group `align.surrogates` and the like; the
class in the room's `__init__.py` is its contract, and `align check ./mine.py:Mine` its kit. A class without a `formula`
of its own, or that overrides the maths of another and not its `formula`, is not explained: the reader is sent to its code."""

ALGORITHMS = "Every algorithm takes every part of an axis it has. *Fixed*: not a key."

ADVANTAGES = """\
`advantage:`, from the rewards of the whole batch. *Answers*: to a prompt, without which it is 0. *Critic*: needs the values of one, so it
is refused where the algorithm trains none. Under `ppo`, an advantage that needs no critic leaves the critic to be fitted to the return,
and what a penalty in the reward takes from a token and those after it is subtracted from it."""

SURROGATES = """\
`surrogate:`, the loss of a token by its ratio ρ = π/π_old and its advantage; bounds are keys of the one that has them. It also says what it
multiplies an advantage by (`effective_log_ratio`), by which a weighted penalty in the reward is divided: unclipped, `placement: reward` has
the gradient of `placement: loss` under every surrogate. Off-policy, `sapo` with two temperatures has no such ratio, and a penalty that
carries no weight of its own (`k1`) has the right one only where that is the token's: both are refused, except with a critic, whose token
rewards take the penalty once a batch, at π_old, before any update."""

REDUCTIONS = """\
`reduction:`, the weight of a token, of the policy term and of every regularizer alike. Answers weigh alike under `sequence_sum` in their
sums and under `sequence_mean` in their means."""

PREFERENCES = """\
`preference:`, of `dpo` (scores of the link, β its coefficient) and of `reward_model` (scores of the model, β = 1). Of rankings of more than
two answers it is the mean over the pairs of each, unless it is one of whole rankings (`plackett_luce`)."""

LIKELIHOODS = """\
`likelihood:`, of `sft`, times `likelihood_weight`: at 0 the regularizers alone are learned from."""


def page() -> str:
    """The whole page, Markdown."""
    facts: dict[str, Fact] = {"answers": lambda cls, kind: str(cls.least_samples), "critic": needs(frozenset({"values"}))}
    sections = [
        *room("advantage", ADVANTAGES, facts),
        *room("surrogate", SURROGATES, {}),
        *room("reduction", REDUCTIONS, {}),
        *room("preference", PREFERENCES, {}),
        *room("likelihood", LIKELIHOODS, {}),
    ]
    return "\n\n".join([INTRODUCTION, *algorithms(), *sections]) + "\n"


def algorithms() -> list[str]:
    rows = []
    for name in registry.shipped("algorithm"):
        built: Algorithm = build_part("algorithm", name, name)
        axes = [f"`{key}: {part.recipe_name}`" for key, part in built.parts().items()]
        fixed = [] if "reduction" in built.parts() else [f"`reduction: {built.reduction.recipe_name}` (fixed)"]
        data = "rollouts" if built.samples else "rankings" if built.ranks else "demonstrations"
        rows.append([code(name), data, ", ".join([*axes, *fixed]), prose(built.formula())])
    return ["## Algorithms", ALGORITHMS, table(["algorithm", "learns from", "parts, by default", "maximises"], rows)]


if __name__ == "__main__":
    print(page(), end="")
