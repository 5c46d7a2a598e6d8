"""`python -m align.tools.reference_page > docs/regularizers.md`: every axis of a regularizer in tables, computed from the parts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from align.audit.alone import alone
from align.audit.measure import measure
from align.audit.published import forms
from align.audit.targets import compose
from align.config import registry
from align.config.docstrings import Key, keys, sentence, summary
from align.config.nodes import build_part
from align.config.refusals import Refusal, judged
from align.divergences import Divergence
from align.estimators import Estimator
from align.inspect.explain import say
from align.oracle import estimator_bias
from align.oracle.enumeration import ONE_TOKEN, TREE, UPDATE
from align.regularizers.composed import CREDITS, WORDS, Composed
from align.types import REWARDED

INTRODUCTION = """\
# Regularizers

Made by `python -m align.tools.reference_page > docs/regularizers.md`; a test holds it to the code. `align list KIND` prints every
key with its meaning, `align explain RECIPE` what a recipe comes to, `align audit` the certificate of any regularizer, your own too.

One regularizer is `β · w · D_f(π‖ref)`: a divergence, by an estimator, in a placement, with a credit, times a coefficient and a
weighting, against a reference. `u = π/ref`; log-probs in nats. Keys are given with their defaults; one without must be given."""

REGULARIZERS = """\
`composed`, which a regularizer is unless it names another, is the product of the axes below. What is no such product is a class of
your own: `examples/custom_regularizer` has an earth mover's distance and a rule for repetitions; `examples/custom_divergence` and
`examples/custom_coefficient` replace one axis."""

DIVERGENCES = f"""\
`divergence:`. *Full support*: the regularized optimum never gives up an answer of the reference's, as a preference link needs. *Link*: may
be placed as one; a run without full support is warned. Where `sampled` has no variance, only a full-vocabulary estimator measures the
divergence.

*Variance* is the trace of the covariance of one answer's gradient over the squared length of the exact gradient, by enumeration in
float64: the mean of this many answers has as much noise as signal. It is that of small problems, to compare forms by: here answers of
up to {TREE.depth} tokens over a vocabulary of {TREE.vocabulary}, credit local, where the states that `exact` looks at are still sampled.
*Stale*: the answers were drawn one update ago."""

ESTIMATORS = """\
`estimator:`, how the divergence is measured. *Reads*, at each token: the reference's log-prob of that token, or its whole vocabulary (its
hidden states are kept, the logits made again in chunks). *Weighted*: a sample counts by π/π_old. *Value*: for KL(π‖ref)."""

GRADIENTS = f"""\
The gradient each has in place of that of KL(π‖ref), for one token of a vocabulary of {ONE_TOKEN.vocabulary}: relative error and variance,
by enumeration."""

PLACEMENTS = """\
`placement: loss` adds a term beside the policy's; `reward` takes it from the advantages, with a critic from the token rewards it learns;
`link` makes β (f'(u) − f'(1)) of a whole answer the implicit reward of a preference loss (`algorithm: dpo`), where the estimator measures
and is no part of the loss. `credit` says which tokens answer for a divergence: three objectives for answers of several tokens."""

PRODUCTS = """\
*yes*: runs. *on-policy*: unbiased where each batch serves one update, biased otherwise. *biased*: the gradient is not that of the
divergence. What is biased runs with `allow_biased: true` only; — has no meaning and never runs."""

COEFFICIENTS = """\
How strong; `coefficient: 0.1` is `constant`. *Told*: of the divergence measured at each step, in nats an answer. *State*: is checkpointed.
*Each prompt*: has a multiplier of its own. *Policy*: looks at π_old, which costs a forward pass where a batch serves one update only.
*Compares*: the answers of a ranking, so it goes with `placement: link` alone. `beta/NAME` shows what it came to."""

WEIGHTINGS = """\
Which samples or tokens feel it; detached, at least 0. *Policy*: looks at π_old, which costs a forward pass where a batch serves one
update only. *Rewards*: looks at rewards or advantages, so it is refused on demonstrations, which have none."""

REFERENCES = """\
Against whom. Each costs one forward pass of the batch (`precomputed` one of the data, ever); equal ones are shared. *Changes*: during the
run. *Starts at π*: a run stops where its first batch finds it elsewhere."""

SHAPINGS = """\
What else touches rewards and advantages: no part of a regularizer, applied in the order of a recipe's `shapings`. *Policy*: as above.
*Second context*: one more forward pass, over the full vocabulary."""

Fact = Callable[[type, str], bool | str]


def page() -> str:
    """The whole page, Markdown."""
    cells = products(shipped("divergence"), shipped("estimator"))
    return "\n\n".join([INTRODUCTION, *regularizers(), *divergences(), *estimators(), *cells, *multipliers()]) + "\n"


def regularizers() -> list[str]:
    rows = [
        [code(name), key_code(key), f"see {key.type}s" if key.type in registry.ROOMS else prose(key.doc)]
        for name in registry.shipped("regularizer")
        for key in keys(registry.resolve("regularizer", name, name))
    ]
    return ["## Composed", REGULARIZERS, table(["regularizer", "key", "meaning"], rows)]


def divergences() -> list[str]:
    rows = []
    for name in registry.shipped("divergence"):
        by_default, exact = compose("divergence", name, {}), compose("divergence", name, {"estimator": "exact"})
        part = by_default.divergence
        sampled = [digits(measure(by_default, TREE, moved).variance) if part.is_f_divergence else "" for moved in (0.0, UPDATE)]
        linked = part.no_link is None
        link = ("yes" if part.full_support else "warned") if linked else "no"
        rows.append([*head(name, type(part)), yes(part.full_support), link, *sampled, digits(measure(exact, TREE).variance)])
    header = ["divergence", "formula", "keys", "full support", "link", "variance, `sampled`", "`sampled`, stale", "`exact`"]
    return ["## Divergences", DIVERGENCES, table(header, rows)]


def estimators() -> list[str]:
    rows, gradients = [], []
    for name in registry.shipped("estimator"):
        form = compose("estimator", name, {})
        part = form.estimator
        reads = "the whole vocabulary" if part.full_vocabulary else "the token"
        rows.append([*head(name, type(part)), reads, yes(part.weighted), prose(estimator_bias.value_is(part, form.divergence))])
    for c in forms():
        found = [m for stale in (False, True) for m in c.measurements if (m.problem, m.stale) == (ONE_TOKEN.name, stale)]
        gradients.append(
            [
                prose(c.name),
                prose(f"{c.verdict}: {c.reason.partition(' (')[0]}"),
                *("0" if abs(m.error) < 1e-9 else f"{m.error:.0%}" for m in found),
                *(digits(m.variance) for m in found),
            ]
        )
    return [
        "## Estimators",
        ESTIMATORS,
        table(["estimator", "what", "keys", "reads", "weighted", "value"], rows),
        GRADIENTS,
        table(["form", "gradient", "error", "error, stale", "variance", "variance, stale"], gradients),
    ]


def shipped(kind: str) -> list[Any]:
    """Each of the room, with its defaults."""
    return [build_part(kind, name, name) for name in registry.shipped(kind)]


def products(every: Sequence[Divergence], estimators: Sequence[Estimator]) -> list[str]:
    """Which combinations run: every part is asked, a user's as a shipped one."""
    # A link scores whole answers: no other credit is legal there.
    columns, rows = [(p, c) for p, c in product(WORDS["placement"], CREDITS) if p != "link" or c == "local"], []
    reasons: dict[tuple[bool, str], dict[str, None]] = {}
    by_default: Composed = build_part("regularizer", {"coefficient": 1.0}, "")
    for part in estimators:
        name, legal, cells, demonstrations = part.recipe_name, set(), [], {}
        for placement, credit in columns:
            states = set()
            for divergence in every:
                form = replace(by_default, divergence=divergence, estimator=part, placement=placement, credit=credit)
                on, off, shown = (
                    judged(form, alone(form, on_policy=on_policy, samples=samples))
                    for on_policy, samples in ((True, True), (False, True), (False, False))
                )
                for refusal in filter(None, (on, off, shown)):
                    reasons.setdefault((refusal.biased, re.sub(f"^{re.escape(name)} ", "… ", refusal.text)), {})[name] = None
                if not shown and placement != "link":  # rankings are no demonstrations
                    demonstrations[f"{placement}, {credit}"] = None
                if state(on, off):
                    states.add(state(on, off))
                    legal.add(divergence.recipe_name)
            cells.append(" or ".join(sorted(states)) or "—")
        rows.append([code(name), *cells, which(legal, [d.recipe_name for d in every]), "; ".join(demonstrations) or "—"])
    why = [[", ".join(map(code, names)), prose(text), "biased" if biased else "—"] for (biased, text), names in sorted(reasons.items())]
    credits_ = [[code(name), prose(sentence(function))] for name, function in CREDITS.items()]
    header = ["estimator", *(f"{placement}, {credit}" for placement, credit in columns), "divergences", "on demonstrations"]
    return [
        "## Placement and credit",
        PLACEMENTS,
        table(["credit", "what"], credits_),
        PRODUCTS,
        table(header, rows),
        "What a recipe is told:",
        table(["of", "reason", "which makes it"], why),
    ]


def state(on_policy: Refusal | None, off_policy: Refusal | None) -> str:
    """What runs; empty for a combination without a meaning."""
    if off_policy is None:
        return "yes"
    return "on-policy" if on_policy is None else "biased" if on_policy.biased else ""


def which(legal: set[str], every: Sequence[str]) -> str:
    named = [code(name) for name in every if name in legal]
    missing = [code(name) for name in every if name not in legal]
    return ", ".join(named) if len(named) <= len(missing) else " but ".join(["all", ", ".join(missing)][: 1 + bool(missing)])


def multipliers() -> list[str]:
    """The rooms that stand beside the divergence: what each part is, and what it costs by what its class says and overrides."""
    policy = needs(frozenset({"old_logp", "entropy"}))
    return [
        *room(
            "coefficient",
            COEFFICIENTS,
            {
                "told": has("update", "update_prompts"),
                "state": has("initial_state"),
                "each prompt": has("multipliers"),
                "policy": policy,
                "compares": says("compares"),
            },
        ),
        *room("weighting", WEIGHTINGS, {"policy": policy, "rewards": needs(REWARDED)}),
        *room(
            "reference",
            REFERENCES,
            {
                "holds": holds(lora=False),
                "with LoRA": holds(lora=True),
                "changes": says("changes"),
                "starts at π": says("starts_at_policy"),
            },
        ),
        *room(
            "shaping",
            SHAPINGS,
            {"of rewards": has("rewards"), "of advantages": has("advantages"), "policy": policy, "second context": has("other_context")},
        ),
    ]


def room(kind: str, text: str, facts: dict[str, Fact]) -> list[str]:
    rows = []
    for name in registry.shipped(kind):
        cls = registry.resolve(kind, name, name)
        # One that scales another has the needs and the state of that.
        inner = next((f"as {code(key.name)}" for key in keys(cls) if key.type == kind), None)
        rows.append([*head(name, cls), *(inner or yes(fact(cls, kind)) for fact in facts.values())])
    return [f"## {kind.capitalize()}s", text, table([kind, "what", "keys", *facts], rows)]


def has(*methods: str) -> Fact:
    """Overrides one of these of its contract."""
    return lambda cls, kind: any(inspect.getattr_static(cls, m) is not inspect.getattr_static(registry.contract(kind), m) for m in methods)


def says(flag: str) -> Fact:
    return lambda cls, kind: getattr(cls, flag)


def needs(any_of: frozenset[str]) -> Fact:
    return lambda cls, kind: bool(any_of & cls.needs)


def holds(lora: bool) -> Fact:
    # Its keys do not matter: a reference says what it is made of before it is given any.
    return lambda cls, kind: cls.holds(object.__new__(cls), lora)


def head(name: str, cls: type) -> list[str]:
    return [code(name), prose(summary(cls)), ", ".join(map(key_code, keys(cls)))]


def key_code(key: Key) -> str:
    return code(key.name if key.required else f"{key.name}: {plain(key.default)}")


def plain(value: Any) -> str:
    """As YAML writes it, a number with six digits."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(plain, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def code(text: str) -> str:
    return f"`{text}`"


def prose(text: str) -> str:
    """A docstring in a table: a bar would end the cell, and outside of code a star is no emphasis."""
    pieces = re.split(r"(`[^`]*`)", say(text).replace("|", r"\|"))
    return "".join(piece if piece.startswith("`") else piece.replace("*", r"\*").replace("<", "&lt;") for piece in pieces)


def yes(fact: bool | str) -> str:
    return fact if isinstance(fact, str) else "yes" if fact else "no"


def digits(x: float) -> str:
    return "0" if abs(x) < 1e-9 else f"{x:.2g}"


if __name__ == "__main__":
    print(page(), end="")
