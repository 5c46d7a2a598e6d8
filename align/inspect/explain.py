"""Explains a recipe without loading a model: the objective as maths, the effective beta, the sizes, the place of each part."""

from __future__ import annotations

import dataclasses
import io
import re
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.algorithms import Algorithm
from align.config.docstrings import format_part, keys, sentence, summary
from align.config.formulas import definer, formula, not_stated, place, symbols
from align.config.guard import guarded
from align.config.parts import Setting
from align.config.refusals import bias
from align.config.schema import Recipe
from align.inspect.curriculum_rows import curriculum_rows
from align.inspect.environment_rows import environment_rows
from align.inspect.rows import Row
from align.inspect.sizes import arithmetic, memory_rows, rollouts
from align.oracle import estimator_bias
from align.references import of_recipe
from align.regularizers import Regularizer
from align.regularizers.composed import CREDITS, Composed
from align.run.state import RunState

GREEK = {r"(?<![A-Za-z])pi(?![A-Za-z])": "π", r"(?<![A-Za-z_])rho(?![A-Za-z])": "ρ", r"\bbeta\b": "β", r"\|\|": "‖", r"\bsum_": "Σ_"}

MEASURED = "measured, not trained"
"""The meaning of a coefficient of 0."""


def explain(recipe: Recipe, width: int = 140) -> str:
    """What a recipe optimises, as maths: the objective, every axis of each regularizer, the effective beta, sizes, memory, and the file
    and line of every part. Loads no model and no data.

    Args:
        recipe: A result of `align.load`.
        width: Width of the text, in characters.

    Returns:
        Text in several sections, without colours; `align explain` prints the same.

    Raises:
        UserError: If a user's own part fails while it is described.

    The formula of a part is its own `formula()`; docs/objective.md and docs/regularizers.md name their sources.

    Example:
        >>> import align
        >>> text = align.explain(align.load("countdown_grpo"))
        >>> print(text.splitlines()[1].strip())
        J = E Σ_t w_t [ min(ρ A, clip(ρ, 1−0.2, 1+0.2) A) − 0.1 · kl_t ]
    """
    text = io.StringIO()
    show(recipe, Console(file=text, width=width, color_system=None))
    return text.getvalue()


def show(recipe: Recipe, out: Console) -> None:
    """Print the text of `explain`."""
    with guarded(recipe):
        sections = _sections(recipe)
    for title, rows in sections.items():
        _print(title, rows, out)


def _sections(recipe: Recipe) -> dict[str, list[Row]]:
    state = RunState(recipe)
    for step in (0, recipe.steps // 2, max(recipe.steps - 1, 0)):
        state.betas(step)  # raises RecipeError for what is no coefficient
    sections = {"objective, maximised": objective(recipe)}
    if rows := curriculum_rows(recipe):
        sections["curriculum"] = rows
    for name, regularizer in recipe.regularizers.items():
        sections[f"regularizer {name}"] = regularizer_rows(name, regularizer, recipe)
    if betas := effective_betas(recipe):
        sections["effective β"] = betas
    if recipe.shapings:
        sections["shapings, in this order"] = [part_row(name, shaping) for name, shaping in recipe.shapings.items()]
    if rows := environment_rows(recipe):
        sections["environment"] = rows
    sections |= {
        "batch": arithmetic(recipe),
        "what is loaded": model_rows(recipe),
        "memory, estimated": memory_rows(recipe),
        "other parts": other_parts(recipe),
    }
    return sections


def say(text: str) -> str:
    """The text of a docstring with mathematical symbols."""
    for word, letter in GREEK.items():
        text = re.sub(word, letter, text)
    return text


def part_row(label: str, part: Any) -> Row:
    """A row with a part's name, keys, summary and place."""
    return Row(label, f"{format_part(part)}: {say(summary(type(part)))}", place(type(part)))


def objective(recipe: Recipe) -> list[Row]:
    """The objective J, and the meaning of its symbols."""
    algorithm, regularizers = recipe.algorithm, recipe.regularizers
    trained = {n: r for n, r in regularizers.items() if not _coefficient_is_zero(r, recipe)}
    in_loss = {n: r for n, r in trained.items() if r.placement == "loss"}
    in_reward = [_term(n, r, recipe) for n, r in trained.items() if r.placement == "reward"]
    links = {n: r for n, r in regularizers.items() if r.placement == "link"}
    text, advantage, weighting = formula(algorithm), _advantage(recipe, in_reward), algorithm.loss_weighting
    if weighting is not None:
        text = f"v ({text})"
    whole = algorithm.ranks or algorithm.labels
    if whole:  # one loss per ranking or answer, but regularizers in the loss stay per token
        beside = " + ".join(_term(n, r, recipe) for n, r in in_loss.items())
        rows = [Row("", f"J = E_r [ {text} ]" + (f" − E Σ_t w_t [ {beside} ]" if beside else ""))]
        rows.append(
            Row("E_r", "the mean over " + ("rankings, each weighed by its number of answers" if algorithm.ranks else "labelled answers"))
        )
    else:
        terms = "".join(f" − {_term(n, r, recipe)}" for n, r in in_loss.items())
        rows = [Row("", f"J = E Σ_t w_t [ {text}{terms} ]")]
    if in_loss or not whole:
        prompts = "prompts of the task" if recipe.curriculum is None else "prompts drawn by the curriculum"
        whose = f"the {algorithm.learns_from} of the data" if not algorithm.samples else f"{prompts} and answers drawn by π_old"
        rows.append(Row("E", f"the mean over {whose}"))
    if advantage:
        rows.append(Row("A", advantage))
    rows += [Row(symbol, meaning) for symbol, meaning in _symbols(algorithm).items() if symbol != "A"]
    if weighting is not None:
        rows.append(Row("v", formula(weighting)))
        rows += [Row(symbol, meaning) for symbol, meaning in symbols(weighting).items()]
    if "σ(" in text:
        rows.append(Row("σ", "the logistic function, σ(x) = 1/(1 + e^−x)"))
    if in_loss or not whole:
        rows.append(Row("w_t", formula(algorithm.reduction)))
        rows += [Row(symbol, meaning) for symbol, meaning in symbols(algorithm.reduction).items()]
    if any(isinstance(r, Composed) for r in regularizers.values()):
        rows.append(Row("u", "π/ref, ref the reference: of a token at its state; of the answer in a link or with credit sequence"))
    rows += [Row("log u", f"of the link: {weighted}") for r in links.values() if (weighted := _link_log_ratio(r))]
    rows += [Row("β", _beta(n, r, recipe)) for n, r in links.items()]
    rows += [Row(n, _penalty(r) + ("" if n in trained else f"; {MEASURED}")) for n, r in regularizers.items()]
    rows += [Row(f"β_{n}", format_part(r.coefficient)) for n, r in regularizers.items() if not _coefficient_is_constant(r, recipe)]
    parts = algorithm.parts() | {"reduction": algorithm.reduction}
    own = {} if algorithm.reference is None else {"reference": algorithm.reference}
    return [*rows, part_row("algorithm", algorithm), *(part_row(key, part) for key, part in (parts | own).items())]


def _advantage(recipe: Recipe, penalties: list[str]) -> str:
    """One line for A: the advantage, penalties subtracted from it, and shapings. Empty if the loss has no advantage."""
    taken = (
        "of the current policy, after any normalisation"
        if recipe.algorithm.critic is None
        else "of π_old, taken from the reward of each token, which the critic learns"
    )
    said = [_symbols(recipe.algorithm).get("A", "")]
    if penalties:
        said.append(f"less {' and '.join(penalties)}, {taken}")
    if recipe.shapings:
        said.append(f"shaped by {', '.join(recipe.shapings)}: see below")
    return "; ".join(filter(None, said))


def _symbols(algorithm: Algorithm) -> dict[str, str]:
    """The symbols of the algorithm's formula, if it states its own, and A, if `symbols` still describes its `advantages`."""
    found, order = symbols(algorithm), type(algorithm).__mro__
    owner = definer(type(algorithm), "advantages")
    if order.index(owner) < order.index(definer(type(algorithm), "symbols")):
        return {"A": not_stated(owner)} | {symbol: meaning for symbol, meaning in found.items() if symbol != "A"}
    advantage = {} if algorithm.advantage is None or owner is not Algorithm else {"A": formula(algorithm.advantage)}
    return advantage | found


def regularizer_rows(name: str, regularizer: Regularizer, recipe: Recipe) -> list[Row]:
    """Every axis of one regularizer: its divergence, its estimator and its placement."""
    rows = [Row("kind", f"{_name(regularizer)}: {say(summary(type(regularizer)))}", place(type(regularizer)))]
    docs = {key.name: key for key in keys(type(regularizer))}
    for field in dataclasses.fields(regularizer):
        value = getattr(regularizer, field.name)
        if field.metadata.get("kind") and value is not None:
            rows.append(part_row(field.name, value))
        elif value is not None and not isinstance(regularizer, Composed):
            rows.append(Row(field.name, f"{value}  {docs[field.name].doc}"))
    if isinstance(regularizer, Composed):
        rows += _estimate(regularizer, recipe.algorithm)
    if regularizer.warning:
        rows.append(Row("warning", regularizer.warning))
    if regularizer.allow_biased:
        wrong = bias(regularizer, Setting(recipe=recipe, where=f"regularizers.{name}", regularizer=regularizer))
        rows.append(Row("biased", f"allowed by allow_biased: true. {say(wrong or '')}"))
    return rows


def _estimate(regularizer: Composed, algorithm: Algorithm) -> list[Row]:
    """Rows for value and gradient, which differ."""
    estimator, divergence, credit = regularizer.estimator, regularizer.divergence, CREDITS[regularizer.credit]
    if regularizer.placement == "link":
        return [
            Row("placement", "link: the implicit reward of an answer is β (f'(u) − f'(1)) at u = π/ref of the whole of it"),
            Row("optimum", "u = f'⁻¹((R − λ)/β), R the reward, or that behind the preferences; for KL(π‖ref) that is ref exp(R/β)/Z"),
            Row("value", f"{format_part(estimator)} measures the divergence at the answers' states; it is logged and not part of the loss"),
            Row("clamp", f"beyond |log π/ref| = {regularizer.largest_log_ratio:g} nats of an answer the score continues along its tangent"),
        ]
    rows = [
        Row(
            "value",
            f"{estimator_bias.value_is(estimator, divergence)} for the divergence; it is logged, and an adaptive coefficient sees it",
        ),
        Row("gradient", f"{estimator_bias.gradient_is(estimator, divergence, regularizer.placement)}; {_ratio(regularizer, algorithm)}"),
        Row("placement", f"{regularizer.placement}; credit {regularizer.credit}: {re.split('[,;] ', sentence(credit))[0]}", place(credit)),
    ]
    if not estimator.full_vocabulary:
        whose = "an answer" if regularizer.credit == "sequence" else "a token"
        rows.append(Row("clamp", f"|log π/ref| of {whose} counts up to {regularizer.largest_log_ratio:g} nats; biased where that cuts"))
    return rows


def _in_token_rewards(regularizer: Regularizer, algorithm: Algorithm) -> bool:
    """Whether it is subtracted from the token rewards that a critic learns."""
    return algorithm.critic is not None and regularizer.placement == "reward"


def _ratio(regularizer: Composed, algorithm: Algorithm) -> str:
    """The importance ratio that weights it, and how the ratio is capped."""
    if _in_token_rewards(regularizer, algorithm):
        once = "at π_old, before the advantage discounts or rescales it as a reward of its token"
        return once if algorithm.on_policy else f"{once}; later updates of a batch weigh and clip it as they do any reward"
    if not regularizer.estimator.weighted:
        own = "weighed by the surrogate's own ratio" if regularizer.placement == "reward" else "not weighed by ρ"
        return f"{own}, as published"
    if not regularizer.weighs_samples:
        return "nothing is sampled at a visited state: no ratio enters"
    ratio = "ρ = π/π_old" if regularizer.ratio_to == "old" else "π/μ (μ: the sampler)"
    span = {"local": "", "summed": " of the answer so far", "sequence": " of the answer"}[regularizer.credit]
    cap, verb = regularizer.ratio_cap, {"truncate": "truncated to it", "mask": "masked"}[regularizer.beyond_cap]
    return f"weighed by {ratio}{span}" + ("" if cap is None else f", above {cap:g} {verb}: biased where that cuts")


def effective_betas(recipe: Recipe) -> list[Row]:
    """The factor on the mean nats after the reduction, computed by the reduction itself for answers of equal length."""
    limit, sequences = recipe.trained_tokens, rollouts(recipe)
    rows = []
    for name, regularizer in recipe.regularizers.items():
        if regularizer.placement == "link":
            continue
        if _coefficient_is_zero(regularizer, recipe):
            rows.append(Row(name, f"β = 0: {MEASURED}"))
            continue
        beta = _first_beta(regularizer)
        rows.append(Row(name, f"β = {beta:g} at step 0" + ("" if _coefficient_is_constant(regularizer, recipe) else ", changing")))
        if _in_token_rewards(regularizer, recipe.algorithm):
            rows.append(Row("", _cost_of_charge(recipe.algorithm)))
            continue
        for length in dict.fromkeys((limit, max(limit // 2, 1))):
            weight = recipe.algorithm.reduction.weights(torch.full((sequences,), length), limit)[0].item()
            rows.append(
                Row(
                    "",
                    f"answers of {length} tokens: {beta * weight * sequences * length:.4g} × the mean nats of a token = "
                    f"{beta * weight * sequences:.4g} × the mean nats of an answer",
                )
            )
        if recipe.algorithm.has_advantages:
            rows.append(Row("", "the policy term is reduced alike: one nat costs β of the advantage A of the token it is counted at"))
    return rows


def _cost_of_charge(algorithm: Algorithm) -> str:
    """The cost of one nat if a critic learns it from the token rewards."""
    if algorithm.advantage is not None and algorithm.advantage.takes_charges:
        return (
            f"one nat costs β of the reward of the token it is counted at; {format_part(algorithm.advantage)} makes A of it as of any "
            "reward, so what it costs of A is another number"
        )
    return "one nat costs β of the advantage A of the token it is counted at, and of those before it"


def model_rows(recipe: Recipe) -> list[Row]:
    """Models and processes."""
    model, workers = recipe.model, recipe.workers
    source = model.path or model.recipe or f"a new {(model.config or {}).get('model_type', 'model')}, at random"
    how = f"LoRA of rank {model.lora.rank}" if model.lora.rank else "every parameter trained"
    how += " in float32" if model.dtype != "float32" else ""
    rows = [Row("reward model" if recipe.algorithm.trains_reward_model else "policy", f"{source}; {model.dtype}, {how}")]
    if recipe.algorithm.critic is not None:
        rows.append(part_row("critic", recipe.algorithm.critic))
    references = {}
    for name, reference in of_recipe(recipe).items():
        references.setdefault(format_part(reference), (reference, []))[1].append(name)
    rows += [
        Row("reference", f"{word} for {', '.join(names)}: {reference.holds(model.lora.rank > 0)}")
        for word, (reference, names) in references.items()
    ]
    if not references and not recipe.algorithm.trains_reward_model:
        rows.append(Row("reference", "none: nothing compares the policy with where it started"))
    copies, actors = f"{workers.rollout} × " if workers.backend == "ray" else "", ["1 learner"]
    engine = recipe.engine
    if recipe.answers:
        use = "" if recipe.algorithm.samples else "; for evaluation alone"
        rows.append(Row("engine", f"{copies}{format_part(engine)}: {say(summary(type(engine)))}{use}", place(type(engine))))
        if recipe.algorithm.samples:
            rows.append(Row("engine gap", f"above {recipe.largest_engine_gap:g} nats a token the run stops (max_engine_gap)"))
        actors.append(f"{workers.rollout} rollout")
    if recipe.reward is not None:
        actors.append(f"{workers.reward} reward")
    return [*rows, Row("processes", f"ray actors: {', '.join(actors)}" if workers.backend == "ray" else "this one process")]


def other_parts(recipe: Recipe) -> list[Row]:
    """The parts that no other section names."""
    parts = {"task": recipe.task, "reward": recipe.reward} | {f"writer {name}": writer for name, writer in recipe.writers.items()}
    return [part_row(kind, part) for kind, part in parts.items() if part is not None]


def _name(part: Any) -> str:
    return getattr(part, "recipe_name", type(part).__name__)


def _weight(regularizer: Regularizer) -> str:
    """The name of a weighting that is not uniform, or an empty text."""
    weighting = regularizer.weighting
    return "" if weighting is None or _name(weighting) == "uniform" else _name(weighting)


def _link_log_ratio(regularizer: Regularizer) -> str:
    """log u of an answer as a weighting changes it, or an empty text."""
    weight = _weight(regularizer)
    return weight and f"Σ_t {weight}_t log(π/ref) over the tokens of the answer, {weight}_t the weight of its token t by the weighting"


def _term(name: str, regularizer: Regularizer, recipe: Recipe) -> str:
    weight = _weight(regularizer)
    return f"{_beta(name, regularizer, recipe)}{weight and f' · {weight}'} · {name}_t"


def _beta(name: str, regularizer: Regularizer, recipe: Recipe) -> str:
    return f"{_first_beta(regularizer):g}" if _coefficient_is_constant(regularizer, recipe) else f"β_{name}"


def _penalty(regularizer: Regularizer) -> str:
    if not isinstance(regularizer, Composed):
        return say(sentence(type(regularizer)))
    if regularizer.placement == "link":
        return say(sentence(type(regularizer.divergence)))
    return f"{say(sentence(type(regularizer.divergence)))}; by {format_part(regularizer.estimator)}, credit {regularizer.credit}"


def _coefficient_is_constant(regularizer: Regularizer, recipe: Recipe) -> bool:
    """Whether the coefficient has no state and is equal at the first, middle and last step."""
    rule, state = regularizer.coefficient, regularizer.coefficient.initial_state()
    return not state and len({rule.beta(step, state) for step in (0, recipe.steps // 2, max(recipe.steps - 1, 0))}) == 1


def _coefficient_is_zero(regularizer: Regularizer, recipe: Recipe) -> bool:
    """Whether its coefficient is always 0."""
    return regularizer.coefficient.always_zero(recipe.steps)


def _first_beta(regularizer: Regularizer) -> float:
    return regularizer.coefficient.beta(0, regularizer.coefficient.initial_state())


def _print(title: str, rows: list[Row], out: Console) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(ratio=1)
    for row in rows:
        cell = Text(row.text)
        if row.place:
            cell.append(f"  {row.place}", style="dim")
        table.add_row(f"  {row.label}", cell)
    out.print(Text(title, style="bold"))
    out.print(table)
    out.print()
