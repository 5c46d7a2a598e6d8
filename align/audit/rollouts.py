"""The estimators on the real answers of a finished run: what its metrics say, and a fresh measurement on held-out prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from align.core.logprobs import Compared, token_stats
from align.divergences import Divergence
from align.divergences.reverse_kl import ReverseKl
from align.errors import UserError
from align.estimators.k1 import K1
from align.estimators.k3 import K3
from align.initial import cache_folder, content_hash
from align.pack import pack
from align.recipe import Lora, Recipe, load
from align.telemetry.writers import read
from align.types import Group

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
    """Nats a token."""
    spread: float
    """Standard deviation over tokens, over the exact mean."""
    bias: float
    """The mean over the exact mean, less 1: on finitely many tokens it holds sampling noise too."""


def logged(run_dir: Path) -> list[Logged]:
    """What `metrics.jsonl` has of regularizers. Raises UserError where the folder is of no run."""
    file = run_dir / "metrics.jsonl"
    if not file.is_file():
        raise UserError(f"{run_dir} is not the folder of a run: it has no metrics.jsonl")
    values: dict[str, list[float]] = {}
    for line in read(file):
        for name, value in line.items():
            if LOGGED.search(name) and value is not None:
                values.setdefault(name, []).append(value)
    return [Logged(name=n, first=v[0], last=v[-1], mean=fmean(v), largest=max(v)) for n, v in sorted(values.items())]


def initial_folder(recipe: Recipe, run_dir: Path) -> Path | None:
    """Where the model a run started from still lies; None where it is no more."""
    if recipe.model.path is not None:
        folder = Path(recipe.model.path)
    elif recipe.model.config is not None:
        folder = run_dir / "initial"
    else:
        warm_start = load(recipe.model.recipe)
        folder = cache_folder() / f"{Path(recipe.model.recipe).stem}-{content_hash(warm_start)}" / "model"
    return folder if (folder / "config.json").is_file() else None


def fresh(run_dir: Path) -> list[Estimated] | str:
    """Draw held-out answers with the run's engine and measure the final policy against the initial one; or why that cannot be done."""
    from transformers import AutoTokenizer  # noqa: PLC0415  (seconds to import)

    from align.evaluate import Suites  # noqa: PLC0415

    recipe_file, model = run_dir / "recipe.yaml", run_dir / "model"
    if not (recipe_file.is_file() and (model / "config.json").is_file()):
        return "the run has no final model yet"
    recipe = load(recipe_file)
    initial = initial_folder(recipe, run_dir)
    if initial is None:
        return "the model the run started from is not kept any more"
    suites = Suites(recipe.task, AutoTokenizer.from_pretrained(model), PROBLEMS)
    if not suites.prompts:
        return "the task has no held-out problems"
    prompts = next(iter(suites.prompts.values()))
    recipe.engine.start(str(model), recipe.sampling, max(len(p.token_ids) for p in prompts))
    try:
        groups = recipe.engine.generate(prompts, SAMPLES, recipe.seed)
    finally:
        recipe.engine.close()
    return estimate(recipe, model, initial, groups)


@torch.no_grad()
def estimate(recipe: Recipe, model: Path, initial: Path, groups: Sequence[Group]) -> list[Estimated]:
    """Per-token estimates on these answers: KL(pi||ref) by k1, k3 and exactly, and each other divergence of the recipe, in one process."""
    from align.learner.micro_batches import micro_batches  # noqa: PLC0415  (the learner's libraries take seconds)
    from align.learner.policy import Policy  # noqa: PLC0415

    divergences: dict[str, Divergence] = {"reverse_kl": ReverseKl()} | {
        name: r.divergence for name, r in recipe.regularizers.items()
        if isinstance(getattr(r, "divergence", None), Divergence) and not isinstance(r.divergence, ReverseKl)}
    whole = _Model(recipe, model, Policy), _Model(recipe, initial, Policy)
    parts: dict[str, list[torch.Tensor]] = {}
    for _, micro in micro_batches(pack(groups, None), recipe.batch.micro_tokens):
        policy, reference = (m.policy.hidden(micro) for m in whole)
        compared = {name: Compared(d, reference, whole[1].policy.head()) for name, d in divergences.items()}
        options: dict[str, Any] = {"temperature": recipe.sampling.temperature, "elements": recipe.batch.head_elements}
        stats = token_stats(policy, whole[0].policy.head(), micro.tokens, compared=compared, **options)
        ref_logp = token_stats(reference, whole[1].policy.head(), micro.tokens, **options).logp
        for name, x in {"log_u": stats.logp - ref_logp, **stats.exact}.items():
            parts.setdefault(name, []).append(x.double())
    tokens = {name: torch.cat(x) for name, x in parts.items()}
    return [row for name, d in divergences.items() for row in _rows(name, d, tokens["log_u"], tokens[name])]
