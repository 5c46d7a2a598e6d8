"""The training loop. A step is, in order: experience, rewards, packing, log-probs, advantages, update, control, sync."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from align.config.checks import check_writers
from align.config.guard import guarded
from align.config.nodes import resolved
from align.config.schema import Recipe
from align.disk import writing
from align.errors import RunStopped
from align.experience import judged_rows, task_data
from align.experience.examples import Examples
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.model_advice import model_notes
from align.run import checkpoints, notes
from align.run.diagnostics import Finding
from align.run.diagnostics.before import before_the_run
from align.run.diagnostics.of_run import diagnostics
from align.run.due import Due
from align.run.evaluation import Suites
from align.run.folder import check_folder, remove_empty_run
from align.run.held_out import HeldOut
from align.run.initial_policy import model_folder
from align.run.lock import locked
from align.run.opening import OpenedRun, open_run
from align.run.phases import Phases
from align.run.positions import check_positions
from align.run.reward_failures import RewardFailures
from align.run.rollouts import Drawn, Rollouts
from align.run.samples import SampleLog
from align.run.signals import defer_stop, stoppable
from align.run.state import RunState
from align.run.step_metrics import answer_metrics, beta_metrics, reward_metrics, staleness_metrics, weighting_metrics
from align.run.watchdog import Watchdog
from align.telemetry import Telemetry
from align.telemetry.writers import read
from align.vocabulary.exported import seal
from align.vocabulary.files import load_tokenizer
from align.vocabulary.model_folder import checked, name_turn_end
from align.vocabulary.words import Words
from align.workers import Workers, open_workers
from align.workers.shards import idle_note

PRECOMPUTED = 1024
"""Rankings that a precomputing reference processes at a time and stores in one file."""


def train(
    recipe: Recipe, run_dir: str | Path, address: str | None = None, resume: bool = False, *, began: float | None = None
) -> dict[str, Any]:
    """Run a recipe into a folder: metrics.jsonl, summary.json, plots/, checkpoints/ and model/, which `from_pretrained` loads.

    Args:
        recipe: A result of `align.load`, possibly changed by `dataclasses.replace`.
        run_dir: An empty or new folder; with `resume`, the folder of the run.
        address: A Ray cluster to attach to: HOST:PORT, ray://HOST:PORT or auto. None starts a private one, unless the recipe says
            `workers.backend: local`.
        resume: Continue from the newest whole checkpoint in `run_dir`.
        began: `time.monotonic()` from which the wall time counts. None: now.

    Returns:
        The contents of summary.json: `before` and `after`, held-out metrics by name (shares, tokens, nats per answer), `steps`, and
        times in seconds: `wall_seconds`, and `phases` by name.

    Raises:
        UserError: For a folder or a recipe that cannot be run.
        RunStopped: A UserError, for a run that cannot continue; its results are kept, with a checkpoint if steps were done.

    The objective is the one that `align.explain` prints.

    Example:
        >>> import align
        >>> small = ["steps=2", "optimizer.warmup_steps=0", "task.size=64", "batch.prompts=8", "evaluation.every=-1"]
        >>> recipe = align.load("countdown_sft", small)
        >>> summary = align.train(recipe, "runs/tiny")  # doctest: +ELLIPSIS
        step  1/2 ...
        >>> summary["steps"], summary["model"]
        (2, 'runs/tiny/model')
    """
    run_dir, phases = Path(run_dir), Phases(began)
    check_folder(run_dir, resume)
    check_writers(recipe)
    created = not run_dir.exists()
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    with locked(run_dir):
        try:
            return _leg(recipe, run_dir, address, open_run(run_dir, recipe, resume), phases)
        finally:
            if created:
                remove_empty_run(run_dir)


def _leg(recipe: Recipe, run_dir: Path, address: str | None, run: OpenedRun, phases: Phases) -> dict[str, Any]:
    try:
        telemetry = Telemetry(run_dir, steps=recipe.steps, first_step=run.first_step)
        try:
            with guarded(recipe):
                telemetry.open(recipe.writers, resolved(recipe))
                for note in run.notes:
                    telemetry.note(note)
                summary = _train(recipe, run_dir, address, run, telemetry, phases)
        finally:
            telemetry.close()
    except BaseException as stop:
        run.leg.ended(stop)
        raise
    run.leg.ended(None)
    return summary


def _train(recipe: Recipe, run_dir: Path, address: str | None, opened: OpenedRun, telemetry: Telemetry, phases: Phases) -> dict[str, Any]:
    transformers_logging.disable_progress_bar()
    # Report a bad row before a warm start is trained.
    with phases.of("data"):
        rows = judged_rows.examples(recipe)
        given = [*rows, *task_data.rankings(recipe.task)]
    for change in opened.leg.data(given):
        telemetry.note(f"resuming with {change}")
    with phases.of("initial model" if recipe.model.recipe is None else "warm start"):
        model_dir = model_folder(recipe, run_dir, train, telemetry.note)
    tokenizer = load_tokenizer(model_dir)
    for note in checked(model_dir, tokenizer, given):
        telemetry.note(note)
    algorithm = recipe.algorithm
    longest_answer = recipe.sampling.max_tokens if algorithm.ranks or algorithm.labels else None
    examples = Examples(recipe.task, tokenizer, recipe.batch.prompts, recipe.seed, longest_answer, rows, algorithm)
    if algorithm.learns_from == "demonstrations":
        examples.demand_demonstrations(algorithm.row_fields)
        examples.fit_demonstrations(recipe.task, recipe.sampling.max_tokens)
    suites = Suites(recipe, tokenizer, recipe.evaluation.problems if recipe.evaluation.every >= 0 else 0)
    for note in notes.data_notes(recipe, examples, suites):
        telemetry.note(note)
    longest = max([examples.max_prompt_tokens, *(len(p.token_ids) for prompts in suites.prompts.values() for p in prompts)])
    check_positions(recipe, model_dir, longest, examples, suites.rankings)
    workers = open_workers(recipe, model_dir, longest, address, phase=phases.of)
    for note in model_notes(recipe.model, model_dir, workers.learner_on_gpu):
        telemetry.note(note)
    if recipe.algorithm.samples and (note := idle_note(recipe.engine, recipe.batch.prompts, recipe.batch.samples, recipe.workers.rollout)):
        telemetry.note(note)
    try:
        words = Words(model_dir, tokenizer)
        with stoppable():  # Ray, when it starts, replaces the handlers that were there
            samples = SampleLog(run_dir, recipe, words.text, opened.first_step)
            run = Run(recipe, run_dir, workers, telemetry, examples, suites, tokenizer.pad_token_id or 0, words, samples, phases)
            run.start_diagnostics(opened.first_step, tokenizer)
            with run.watchdog:
                return run.run(opened.first_step)
    finally:
        workers.close()


class Run:
    """One run of a recipe: its state, its workers and its telemetry."""

    def __init__(
        self,
        recipe: Recipe,
        run_dir: Path,
        workers: Workers,
        telemetry: Telemetry,
        examples: Examples,
        suites: Suites,
        pad_id: int,
        words: Words,
        samples: SampleLog,
        phases: Phases,
    ):
        self.recipe, self.run_dir, self.workers, self.telemetry = recipe, run_dir, workers, telemetry
        self.examples, self.suites, self.pad_id, self.words, self.samples = examples, suites, pad_id, words, samples
        self.phases = phases
        self.seconds: dict[str, float] = {}
        self.tokens, self.step_seconds = 0, 0.0
        self.state, self.updating = RunState(recipe), False
        self.version = 0
        """Version of the published learner's weights: one more than the last trained step."""
        self.failures = RewardFailures()
        self.due, self.saver = Due(recipe.checkpoint), checkpoints.Saver(run_dir, recipe)
        self.rollouts = Rollouts(recipe, workers, examples, self.timed, telemetry.note)
        self.held_out = HeldOut(recipe, suites, workers, samples, pad_id, telemetry.note)
        self.watchdog = Watchdog(workers, run_dir / "stacks", telemetry.note)
        self.diagnostics = diagnostics(recipe)
        self.nothing_learned = 0
        """Steps of which every answer was dropped."""
        self.batches = 0
        """Batches that the learner has trained, as the loop has seen it."""

    def run(self, first: int) -> dict[str, Any]:
        recipe, evaluation = self.recipe, self.recipe.evaluation
        state, phases = self.state, self.phases
        self.precompute()
        self.version = first
        if first:
            with phases.of("checkpoint"):
                checkpoints.load(self.run_dir, first, state, self.workers.learner)
                if recipe.answers:
                    self.workers.publish(first)
        elif evaluation.every >= 0:
            with phases.of("first evaluation"):
                state.before = self.evaluate(0)
        self.batches = self.workers.learner.version
        step = first
        try:
            with phases.of("training"):
                if evaluation.between(first, recipe.steps):
                    self.evaluate(first)  # the leg before ended before it, or has written it among the lines that are written again
                for step in range(first, recipe.steps):
                    self.step(step)
                    done = step + 1
                    if done == recipe.steps or self.due.after(done):
                        state.step = done
                        self.checkpoint()
                    if evaluation.between(done, recipe.steps):
                        self.evaluate(done)
        except BaseException as stop:
            self.save_after(step, stop)
            raise
        with phases.of("export"):
            self.saver.wait()
            self.workers.learner.export(str(self.run_dir / "model"))
            if self.examples.conversations:
                name_turn_end(str(self.run_dir / "model"))
            seal(self.run_dir / "model")
        after = {}
        if evaluation.every >= 0:
            with phases.of("last evaluation"):
                after = self.evaluate(recipe.steps)
        summary = {
            "before": state.before,
            "after": after,
            "steps": recipe.steps,
            "resumed_from": first,
            "tokens/s": self.tokens / self.step_seconds if self.tokens else None,
            "train_seconds": self.step_seconds,
            "wall_seconds": phases.wall(),
            "phases": phases.seconds,
            "model": str(self.run_dir / "model"),
            "biased": [name for name, r in recipe.regularizers.items() if r.allow_biased],
            "references": self.workers.learner.reference_info(),
            "nothing_learned": self.nothing_learned,
            "diagnostics": [finding.text for finding in self.diagnostics.found],
        }
        self.telemetry.finish(summary)
        return summary

    def save_after(self, step: int, stop: BaseException) -> None:
        """Save a checkpoint after an exception in this step, if the state is whole.

        A batch of which updates were applied counts as trained; the coefficients then have their states before it.
        """
        cut_short = self.updating and not isinstance(stop, Exception)  # a second Ctrl-C: the learner may still be applying the update
        learner = self.workers.learner
        try:
            with defer_stop():
                self.saver.wait()
                if cut_short or not learner.whole:
                    return
                if learner.version > self.batches:
                    self.state.step = step + 1
                self.checkpoint()
                self.saver.wait()
        except Exception as error:  # the exception that stopped the run matters more
            if str(error) != str(stop):
                self.telemetry.note(f"no checkpoint could be kept: {error}")

    def step(self, step: int) -> None:
        """One training step, in order."""
        self.seconds = {}
        self.workers.learner.exchange.take()  # do not count the bytes of an evaluation
        began = time.perf_counter()
        drawn = self.experience(step)
        batch = pack(drawn.groups, drawn.rewards, self.pad_id, self.words.text.one)
        self.failures.check(step, drawn.judged)
        recipe = self.recipe
        counted = {
            **answer_metrics(drawn.answered, recipe.algorithm.samples),
            **reward_metrics(batch, drawn.judged, by_group=recipe.algorithm.least_samples > 1),
            "epoch": self.state.rounds_before(step + 1) * recipe.batch.prompts / len(self.examples.examples),
            **drawn.metrics,
        }
        if batch is None:
            self.nothing_learned += 1
            self.telemetry.note(f"step {step}: every answer was dropped, so nothing was learned from it")
            self.report(step, counted, began)
            return
        batch, staleness = self.state.begin(batch, step), staleness_metrics(batch, self.version)
        with self.timed("score"):
            batch = self.workers.learner.compute_logprobs(batch)
        batch = prepare_batch(self.recipe, batch, self.state.coefficients, self.state.loss_weighting)
        written = self.samples.of_step(step, drawn.groups, drawn.rewards, batch, self.workers.learner)
        self.updating = True
        with defer_stop():  # a step that was learned has its line of metrics
            with self.timed("update"):
                stats = self.workers.learner.update(batch, step)
            self.state.control(batch, stats)
            self.state.step = self.version = step + 1
            self.batches += 1
            self.updating = False
            if step == 0:
                for note in notes.distance_notes(self.recipe, stats):
                    self.telemetry.note(note)
            sync = self.sync(step + 1) if self.recipe.algorithm.samples else {}
            seconds = time.perf_counter() - began
            count = len(batch.seq_ids)
            self.tokens, self.step_seconds = self.tokens + count, self.step_seconds + seconds
            means = {name: stat.mean for name, stat in stats.items()}
            weighed = beta_metrics(batch) | weighting_metrics(recipe, batch)
            moved = sync | staleness | self.workers.learner.exchange.take()
            rates = {"response/length": count / len(batch.lengths), "tokens/s": count / seconds}
            self.report(step, {**means, **counted, **weighed, **batch.shaped, **moved, **rates}, began)
            self.telemetry.samples(step, written, self.samples.lines(written))

    def report(self, step: int, metrics: dict[str, float], began: float) -> None:
        """Write the metrics of a step with its times, the memory of the processes and what the detectors find. Raises RunStopped."""
        metrics = metrics | {f"memory/{role}": size for role, size in self.workers.memory().items()}
        metrics |= {"time/step": time.perf_counter() - began, **{f"time/{k}": v for k, v in self.seconds.items()}}
        found = self.diagnostics.after(step, metrics)
        self.telemetry.step(step, metrics | {f"diagnostics/{finding.name}": 1.0 for finding in found})
        self.report_findings(found)

    def report_findings(self, found: Sequence[Finding]) -> None:
        """Print findings. Raises RunStopped for one that stops the run."""
        for finding in found:
            if finding.stops:
                raise RunStopped(finding.text)
            self.telemetry.note(finding.text)

    def start_diagnostics(self, first: int, tokenizer: Any) -> None:
        """Start the detectors: with what is found before the run, or from the kept metrics of a resumed one."""
        before = list(before_the_run(self.recipe, self.examples.examples, tokenizer))
        self.diagnostics = diagnostics(self.recipe, before)
        if first:
            self.diagnostics.replay(read(self.run_dir / "metrics.jsonl"))
        else:
            self.report_findings(before)

    def precompute(self) -> None:
        """Give every ranking to the references that precompute."""
        if not any(r.reference is not None and r.reference.precomputes for r in self.recipe.regularizers.values()):
            return
        computed = sum(
            self.workers.learner.precompute(pack(groups, None, self.pad_id))
            for groups in (*self.examples.all_rankings(PRECOMPUTED), *([self.suites.rankings] if self.suites.rankings else []))
        )
        self.workers.learner.precompute(None)
        self.telemetry.note(
            f"references: {computed} log-probs of answers computed, the others were kept from before"
            if computed
            else "references: the log-probs of all answers were kept from before"
        )

    def experience(self, step: int) -> Drawn:
        if not self.recipe.algorithm.samples:
            groups = self.examples.data(step, self.recipe.algorithm)
            return Drawn(groups, None, groups, None, 1, {})
        return self.rollouts.of_step(step, self.state)

    def checkpoint(self) -> None:
        with self.watchdog.phase("checkpoint"):
            self.saver.save(self.state, self.workers.learner)
            self.due.saved()

    def sync(self, version: int) -> dict[str, float]:
        with self.timed("sync"):
            return self.workers.publish(version)

    def evaluate(self, step: int) -> dict[str, float]:
        with self.watchdog.phase("evaluate"):
            metrics = self.held_out.rankings(step, self.state) | self.held_out.answers(step)
        if metrics:
            found = self.diagnostics.evaluated(step, metrics)
            self.telemetry.evaluation(step, metrics)
            self.report_findings(found)
        return metrics

    @contextmanager
    def timed(self, name: str):
        began = time.perf_counter()
        with self.watchdog.phase(name):
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
