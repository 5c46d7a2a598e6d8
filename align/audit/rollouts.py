"""The estimators on the real answers of a run: from its metrics, and measured anew on its final model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from align.config.recipes import load
from align.config.schema import Lora, Recipe
from align.core.logprobs import Compared, token_stats
from align.divergences import Divergence
from align.divergences.reverse_kl import ReverseKl
from align.errors import UserError
from align.experience.packing import pack
from align.learner.budgets import device_budgets
from align.learner.micro_batches import micro_batches
from align.learner.policy import Policy
from align.run.evaluation import Suites
from align.run.initial_policy import cache_folder, content_hash
from align.run.model_files import check_files
from align.run.model_source import stored_folder
from align.telemetry.writers import read
from align.types import Group
from align.vocabulary.files import is_adapter, load_tokenizer
from align.workers.shards import generate
from align.workers.turns import start_rollouts

LOGGED = re.compile(r"^(divergence|clamped|capped|beta)/|^kl/(?!initial)|^ratio/|^engine/gap$")
PROBLEMS, SAMPLES = 16, 4


@dataclass(frozen=True, kw_only=True)
class Logged:
    """One metric over the steps of a run."""

    name: str
    first: float
    last: float
    mean: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """One estimate of one divergence, over the tokens of fresh answers."""

    divergence: str
    estimator: str
    mean: float
    """The mean estimate, in nats per token."""
    off: float
    """The mean, divided by the mean of `exact` on the same tokens, minus 1."""
    spread: float
    """Standard deviation over tokens, divided by the mean of `exact`."""


def logged_metrics(run_dir: Path) -> list[Logged]:
    """The regularizers' metrics in `metrics.jsonl`. Raises UserError if the folder is not of a run."""
    file = run_dir / "metrics.jsonl"
    if not file.is_file():
        raise UserError(f"{run_dir} is not the folder of a run: it has no metrics.jsonl")
    values: dict[str, list[float]] = {}
    for line in read(file):
        for name, value in line.items():
            if LOGGED.search(name) and value is not None:
                values.setdefault(name, []).append(value)
    return [Logged(name=n, first=v[0], last=v[-1], mean=fmean(v), largest=max(v)) for n, v in sorted(values.items())]


def estimates_of_fresh_answers(run_dir: Path) -> list[Estimated] | str:
    """Draw held-out answers with the run's engine and compare its final policy with its initial one, or return why that is impossible."""
    recipe_file, model = run_dir / "recipe.yaml", run_dir / "model"
    if not (recipe_file.is_file() and (model / "config.json").is_file()):
        return "the folder has no final model"
    recipe = load(recipe_file)
    initial = _initial(recipe, run_dir)
    if not (initial / "config.json").is_file():
        return f"the model that the run started from is no longer in {initial}"
    check_files(model)
    suites = Suites(recipe, load_tokenizer(str(model), "the run's model"), PROBLEMS).prompts
    if not suites:
        return "the task has no held-out problems"
    prompts = next(iter(suites.values()))
    engine = start_rollouts(recipe, str(model), max(len(p.token_ids) for p in prompts))
    try:
        groups = generate(recipe.engine, engine, prompts, SAMPLES, recipe.seed)
    finally:
        engine.close()
    return estimate(recipe, model, initial, groups)


def _initial(recipe: Recipe, run_dir: Path) -> Path:
    path, source = recipe.model.path, recipe.model.recipe
    if path is not None:
        stored = stored_folder(path, recipe.model.revision) or Path(path)
        return run_dir / "initial" if is_adapter(str(stored)) else stored
    if source is not None:
        return cache_folder() / f"{Path(source).stem}-{content_hash(load(source))}" / "model"
    return run_dir / "initial"


@torch.no_grad()
def estimate(recipe: Recipe, model: Path, initial: Path, groups: Sequence[Group]) -> list[Estimated]:
    """On the tokens of these answers: KL(pi||initial) by k1, by k3 and exactly, and every other divergence of the recipe."""
    named = {name: getattr(r, "divergence", None) for name, r in recipe.regularizers.items()}
    divergences = {"reverse_kl": ReverseKl()} | {
        name: d for name, d in named.items() if isinstance(d, Divergence) and not isinstance(d, ReverseKl)
    }
    policy, reference = (Policy(str(folder), replace(recipe.model, lora=Lora())) for folder in (model, initial))
    budgets = device_budgets(recipe, policy)
    options = {"temperature": recipe.sampling.temperature, "elements": budgets.head_elements}
    log_u, exact = [], {name: [] for name in divergences}
    batch = pack(groups, None)
    assert batch is not None  # without rewards no sample is left out
    for _, micro in micro_batches(batch, budgets.micro_tokens):
        micro = micro.to(policy.device)
        hidden = reference.hidden(micro)
        compared = {name: Compared(d, hidden, reference.head()) for name, d in divergences.items()}
        places = policy.spelled.places(micro.tokens)
        stats = token_stats(policy.hidden(micro), policy.head(), places, compared=compared, **options)
        log_u.append((stats.logp - token_stats(hidden, reference.head(), places, **options).logp).cpu())
        for name, values in stats.exact.items():
            exact[name].append(values.cpu())
    log_ratio = torch.cat(log_u).double()
    return [row for name, d in divergences.items() for row in _rows(name, d, log_ratio, torch.cat(exact[name]).double())]


def _rows(name: str, divergence: Divergence, log_u: Tensor, exact: Tensor) -> Iterator[Estimated]:
    estimates = {"sampled": divergence.khat(log_u), "exact": exact} if divergence.is_f_divergence else {"exact": exact}
    if isinstance(divergence, ReverseKl):
        estimates = {"k1": log_u, "k3": divergence.khat(log_u), "exact": exact}
    for estimator, x in estimates.items():
        mean, spread = x.mean() / exact.mean(), x.std(correction=0) / exact.mean()
        yield Estimated(divergence=name, estimator=estimator, mean=x.mean().item(), off=(mean - 1).item(), spread=spread.item())
