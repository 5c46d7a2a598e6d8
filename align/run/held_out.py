"""What a run measures on held-out data: the policy's answers, its distance from the initial policy, and the loss on rankings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from align.config.schema import Recipe
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.run.answer_metrics import judged, means
from align.run.evaluation import Suites
from align.run.samples import SampleLog
from align.run.state import RunState
from align.types import Group
from align.workers import Workers


class HeldOut:
    """The evaluations of one run."""

    def __init__(self, recipe: Recipe, suites: Suites, workers: Workers, samples: SampleLog, pad_id: int, note: Callable[[str], None]):
        self._recipe, self._suites, self._workers, self._samples, self._pad_id, self._note = recipe, suites, workers, samples, pad_id, note

    def answers(self, step: int) -> dict[str, float]:
        """Metrics of the policy's answers to held-out problems, by suite.

        `kl/initial`, in nats per answer, is that of the first suite; it is left out if held-out answers are drawn otherwise than those
        that are learned from.
        """
        suites, recipe = self._suites, self._recipe
        if not suites.prompts:
            return {}
        if not recipe.algorithm.samples and step:
            self._workers.publish(step)  # an algorithm that samples has synced already
        generate = self._workers.generate if recipe.drawing is None else partial(self._workers.generate, drawing=recipe.drawing)
        metrics, groups = suites.evaluate(generate, recipe.evaluation.samples, recipe.seed)
        suite = next(iter(suites.prompts))
        metrics |= {name: value for name, value in self._judged(step, suite, groups, metrics).items() if name not in metrics}
        if recipe.drawing is not None:
            return metrics
        return metrics | {"kl/initial": self._workers.learner.exact_kl(pack(groups, None, self._pad_id)).mean}

    def _judged(self, step: int, suite: str, groups: list[Group], own: Mapping[str, float]) -> dict[str, float]:
        """Metrics of the answers by the recipe's reward; the answers are recorded. `own`: the task's metrics."""
        rewards = None if self._recipe.reward is None else self._workers.compute_rewards(groups)
        self._samples.held_out(step, suite, groups, rewards)
        if rewards is not None and rewards.failed:
            self._note(f"{suite}: {rewards.failed} rewards of held-out answers failed; the first: {rewards.first_failure}")
        return {f"{suite}/{name}": value for name, value in means(judged(self._recipe, suite, groups, rewards, own)).items()}

    def rankings(self, step: int, state: RunState) -> dict[str, float]:
        """Statistics of the loss on the held-out rankings, as `rankings/...`."""
        if not self._suites.rankings:
            return {}
        batch = replace(pack(self._suites.rankings, None, self._pad_id), step=step, betas=state.betas(max(step - 1, 0)))
        learner = self._workers.learner
        stats = learner.measure(prepare_batch(self._recipe, learner.compute_logprobs(batch), state.coefficients, state.loss_weighting))
        return {f"rankings/{name}": stat.mean for name, stat in stats.items()}
