"""What no single part of a recipe can know: keys that change nothing, parts that contradict each other, sizes that do not divide."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from align.config import resolved
from align.describe import written
from align.divergences import Divergence
from align.errors import RecipeError
from align.regularizers import Regularizer
from align.tryout import try_divergence
from align.types import EARLY, REWARDED

if TYPE_CHECKING:
    from align.recipe import Recipe


def check(recipe: Recipe) -> None:
    """Raises RecipeError at the key at fault."""
    algorithm = recipe.algorithm
    if algorithm.samples and recipe.reward is None:
        raise RecipeError("reward", f"{algorithm.recipe_name} learns from rewards: name one")
    _refuse_dead_keys(recipe)
    _check_objective(recipe)
    if recipe.batch.prompts % algorithm.minibatches:
        raise RecipeError("batch.prompts", f"{recipe.batch.prompts} prompts do not divide into {algorithm.minibatches} "
                          "minibatches (groups stay whole); change algorithm.minibatches or batch.prompts")
    if recipe.model.lora.dropout and recipe.regularizers:
        raise RecipeError("model.lora.dropout", "makes policy and reference differ by noise; set it to 0 with regularizers")
    for name, regularizer in recipe.regularizers.items():
        _check_regularizer(recipe, name, regularizer)
        _check_needs(recipe, f"regularizers.{name}", {"weighting": regularizer.weighting, "coefficient": regularizer.coefficient})
    _check_alike(recipe)
    _check_links(recipe)
    _check_devices(recipe)
    for name, shaping in recipe.shapings.items():
        _check_needs(recipe, f"shapings.{name}", {"shaping": shaping})
        if not (algorithm.samples and algorithm.has_advantages):
            why = "uses no advantages" if algorithm.samples else f"learns from {data(recipe)}"
            raise RecipeError(f"shapings.{name}", f"changes nothing: {algorithm.recipe_name} {why}; delete the key")
        reason = shaping.refusal(max_tokens=recipe.sampling.max_tokens)
        if reason:
            raise RecipeError(f"shapings.{name}", reason)


def check_writers(recipe: Recipe) -> None:
    """Raises RecipeError at a writer that cannot write here. Apart from `check`: workers, `explain` and `eval` do without its package."""
    for name, writer in recipe.writers.items():
        if reason := writer.refusal():
            raise RecipeError(f"writers.{name}", reason)


def data(recipe: Recipe) -> str:
    """What the algorithm learns from, in a word."""
    if recipe.algorithm.samples:
        return "rollouts"
    return "rankings" if recipe.algorithm.ranks else "demonstrations"


def _refuse_dead_keys(recipe: Recipe) -> None:
    """A key that was given and changes nothing is an error. One that holds its default is as good as not given."""
    offline = f"{recipe.algorithm.recipe_name} learns from {data(recipe)}; delete the key"
    switched_off = [
        (recipe.model.lora, "model.lora", "rank", recipe.model.lora.rank == 0, "rank: 0 trains every parameter"),
        (recipe.evaluation, "evaluation", "every", recipe.evaluation.every < 0, "every: -1 never evaluates"),
        (recipe.reward_limits, "reward_limits", None, not recipe.algorithm.samples, offline),
    ]
    for keys, where, switch, off, why in switched_off:
        for f in fields(keys):
            if off and f.name != switch and getattr(keys, f.name) != f.default:
                raise RecipeError(f"{where}.{f.name}", f"changes nothing: {why}")
    if recipe.algorithm.scores and recipe.evaluation.samples != type(recipe.evaluation).samples:
        raise RecipeError("evaluation.samples", f"changes nothing: {recipe.algorithm.recipe_name} trains a scorer, which writes no answers")
    if not recipe.algorithm.samples:
        if recipe.reward is not None:
            raise RecipeError("reward", f"changes nothing: {offline}")
        if recipe.batch.samples != type(recipe.batch).samples:
            raise RecipeError("batch.samples", f"changes nothing: {offline}")


def _check_objective(recipe: Recipe) -> None:
    """The algorithm's parts beside its data, its critic and the regularizers."""
    algorithm = recipe.algorithm
    if algorithm.samples and recipe.batch.samples < algorithm.least_samples:
        of = algorithm.recipe_name if algorithm.advantage is None else f"advantage {written(algorithm.advantage)}"
        raise RecipeError("batch.samples", f"{of} compares at least {algorithm.least_samples} answers to a prompt, and every advantage of "
                          f"fewer is 0: set it to {algorithm.least_samples} or more, or use an advantage with a baseline of its own")
    for key, part in algorithm.parts().items():
        where, word = f"algorithm.{key}", written(part)
        if "values" in part.needs and algorithm.critic is None:
            raise RecipeError(where, f"{word} needs the values of a critic, and {algorithm.recipe_name} trains none: use ppo, or another "
                              f"{key}")
        if REWARDED & part.needs and not algorithm.samples:
            raise RecipeError(where, f"{word} looks at rewards, and {data(recipe)} have none: use another {key}")
    reason = algorithm.refusal({name: regularizer.placement for name, regularizer in recipe.regularizers.items()})
    if reason:
        raise RecipeError("algorithm", reason)


def _check_regularizer(recipe: Recipe, name: str, regularizer: Regularizer) -> None:
    algorithm, where = recipe.algorithm, f"regularizers.{name}"
    if algorithm.scores:
        raise RecipeError(where, f"changes nothing: {algorithm.recipe_name} trains a scorer, and there is no policy to hold; delete it")
    for f in fields(regularizer):
        if f.metadata.get("kind") == "divergence" and isinstance(getattr(regularizer, f.name), Divergence):
            try_divergence(getattr(regularizer, f.name), f"{where}.{f.name}")
    if algorithm.critic is not None and regularizer.placement == "reward":
        _check_charge(where, regularizer)
    on_policy = algorithm.penalises_on_policy(regularizer.placement)
    reason = regularizer.refusal(on_policy=on_policy, samples=algorithm.samples)
    if reason is None and not on_policy and algorithm.surrogate is not None:
        reason = regularizer.refuses_surrogate(algorithm.surrogate)
    if reason:
        raise RecipeError(where, reason)
    if regularizer.reference is not None:
        idle = regularizer.reference.refusal(on_policy=on_policy)
        if idle and not algorithm.on_policy:
            idle = "with a critic the penalty is taken at pi_old, which is this reference, so it is 0 throughout; use placement: loss"
        if idle:
            raise RecipeError(f"{where}.reference", f"changes nothing: {idle}")
    if regularizer.reference is not None and regularizer.reference.tokens_only:
        if regularizer.reference.precomputes and not algorithm.ranks:
            raise RecipeError(f"{where}.reference", f"{algorithm.recipe_name} learns from {data(recipe)}, and only rankings are known "
                              "before the first step: use frozen")
        if not regularizer.reference.precomputes and not algorithm.samples:
            raise RecipeError(f"{where}.reference", f"{algorithm.recipe_name} learns from {data(recipe)}, which no engine drew: use frozen")
        if regularizer.full_vocabulary:
            raise RecipeError(f"{where}.reference", "keeps the log-probs of the answers alone, and estimator: exact looks at the whole "
                              "vocabulary: use frozen")


def _check_needs(recipe: Recipe, where: str, parts: dict[str, Any]) -> None:
    """What a part reads of a batch must be there before its update."""
    for kind, part in parts.items():
        if part is None:
            continue
        if unknown := part.needs - EARLY:
            raise RecipeError(where, f"{kind} {written(part)} needs {', '.join(sorted(unknown))}, which no column of a batch is called; "
                              f"there are: {', '.join(sorted(EARLY))}")
        if "values" in part.needs and recipe.algorithm.critic is None:
            raise RecipeError(where, f"{kind} {written(part)} needs the values of a critic, and {recipe.algorithm.recipe_name} trains "
                              "none: use ppo, or another")
        if part.needs & REWARDED and not recipe.algorithm.samples:
            raise RecipeError(where, f"{kind} {written(part)} looks at rewards, and this algorithm's data have none: use another")


def _check_charge(where: str, regularizer: Regularizer) -> None:
    """With a critic the penalty is part of the token rewards it learns, taken once, at pi_old and before the advantages."""
    if type(regularizer).charge is Regularizer.charge:
        raise RecipeError(where, f"cannot be taken from the rewards that a critic learns: {type(regularizer).__name__} has no `charge`; "
                          "use placement: loss")
    for key in ("ratio_to", "ratio_cap"):
        if getattr(regularizer, key, None) not in (None, "old"):
            raise RecipeError(f"{where}.{key}", "changes nothing: with a critic the penalty is taken at pi_old, where no ratio enters")
    if regularizer.weighting is not None and REWARDED & regularizer.weighting.needs:
        raise RecipeError(f"{where}.weighting", "looks at rewards or advantages, and with a critic the penalty comes before them: use "
                          "placement: loss, or another weighting")


def _check_alike(recipe: Recipe) -> None:
    """Two regularizers that differ in name and coefficient alone are one, whose strength no key shows."""
    seen: list[tuple[str, dict]] = []
    for name, regularizer in recipe.regularizers.items():
        node = {key: value for key, value in resolved(regularizer).items() if key != "coefficient"}
        twin = next((other for other, before in seen if before == node), None)
        if twin is not None:
            raise RecipeError(f"regularizers.{name}", f"is the same as regularizers.{twin} in everything but its coefficient: keep one of "
                              "them, with the sum of the coefficients")
        seen.append((name, node))


def _check_devices(recipe: Recipe) -> None:
    """Who must have a GPU keeps it: 0 in `workers` hides the GPUs from a process."""
    roles = [("workers.learner_gpus", recipe.workers.learner_gpus, "model.device", recipe.model.device)]
    if recipe.answers:
        roles.append(("workers.rollout_gpus", recipe.workers.rollout_gpus, "engine.device", recipe.engine.device))
    for key, gpus, where, device in roles:
        if gpus == 0 and device.startswith("cuda"):
            raise RecipeError(key, f"0 hides the GPUs, and {where}: {device} wants one: leave one of the two out")
        if gpus and device == "cpu":
            raise RecipeError(key, f"{gpus:g} reserves GPUs, and {where}: cpu uses none: leave one of the two out")
    share = recipe.workers.rollout_gpus
    if recipe.answers and share and share < 1:
        recipe.engine.check_share(share, f"workers.rollout_gpus: {share:g} lets others work on its GPU")


def _check_links(recipe: Recipe) -> None:
    algorithm, linked = recipe.algorithm, [name for name, r in recipe.regularizers.items() if r.placement == "link"]
    if algorithm.links and len(linked) != 1:
        raise RecipeError("regularizers", f"{algorithm.recipe_name} needs exactly one regularizer with placement: link, whose divergence "
                          f"and coefficient make the implicit reward; there are {len(linked)}. Write for example "
                          "regularizers: {kl: {divergence: reverse_kl, placement: link, coefficient: 0.1}}")
    if linked and not algorithm.links:
        raise RecipeError(f"regularizers.{linked[0]}.placement", f"{algorithm.recipe_name} has no preference loss to link to: use "
                          "placement: loss or reward")
    for name in linked:
        steps = (0, recipe.steps // 2, max(recipe.steps - 1, 0))
        coefficient = recipe.regularizers[name].coefficient
        if any(coefficient.beta(step, coefficient.initial_state()) <= 0 for step in steps):
            raise RecipeError(f"regularizers.{name}.coefficient", "is 0 at some step: a link without beta has no implicit reward")
