"""Checks of an engine: it samples from its current weights, reports their log-probs, and loads only whole models."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from align import engines
from align.engines import Drawing, Engine, RunningEngine, RunningHeldOutEngine, Sampling
from align.testing.findings import Finding, Kit
from align.testing.tiny import tiny_model
from align.types import Episode, Group, Prompt
from align.vocabulary.spelled import Spelled
from align.weight_sync.flattening import flatten
from align.workers.shards import groups_in_order, prompt_seeds, units

KIT = Kit("engine")
SAMPLING = Sampling(temperature=0.7, max_tokens=12)
LONGEST = 32
PADDING = 12
PROMPTS = tuple(Prompt(id=f"p{i}", text="", token_ids=tuple(3 + (i * j + j) % 10 for j in range(3 + 4 * (i % 3)))) for i in range(9))
SAMPLES = 4


def check_engine(part: Any, /, model_dir: Path | None = None, tolerance: float = 1e-4, **keys: Any) -> list[Finding]:
    """Run every check of an engine, given by name, as a class with keys, or built.

    Args: model_dir: a Hugging Face folder; None: a tiny model is made; tolerance: largest allowed error of its log-probs, in nats; those
    of another model must differ by more.
    """
    with tempfile.TemporaryDirectory() as made:
        return KIT.run(part, keys, model_dir=model_dir or tiny_model(Path(made)), tolerance=tolerance)


def reported(episode: Episode) -> np.ndarray:
    """log mu of its tokens. Raises TypeError for an episode without log-probs."""
    if (logp := episode.sampler_logp) is None:
        raise TypeError("an episode has no log-probs")
    return logp


@dataclass
class Started:
    """A running engine, and the model whose weights it should have."""

    engine: RunningEngine
    model: Any
    spelled: Spelled

    def generate(self, prompts=PROMPTS, samples: int = SAMPLES, seed: int = 1) -> list[Group]:
        return self.engine.generate(prompts, samples, prompt_seeds(len(prompts), seed))

    @torch.no_grad()
    def gap(self, groups: list[Group]) -> float:
        """The largest |log mu - log pi| of a token, in nats, with log pi from one forward pass over prompt and answer."""
        worst = 0.0
        for prompt, episode in ((g.prompt, e) for g in groups for e in g.episodes):
            logits, tokens = self.logits(prompt, episode)
            logp = torch.log_softmax(logits / SAMPLING.temperature, -1).gather(1, tokens[:, None]).squeeze(1)
            worst = max(worst, float(np.abs(reported(episode) - logp.numpy()).max()))
        return worst

    @torch.no_grad()
    def below_largest(self, groups: list[Group]) -> float:
        """The most by which the logit of a drawn token is below the largest."""
        found = [self.logits(g.prompt, e) for g in groups for e in g.episodes]
        return max(float((logits.amax(1) - logits.gather(1, tokens[:, None]).squeeze(1)).max()) for logits, tokens in found)

    def logits(self, prompt: Prompt, episode: Episode) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [n, V] from which each trained token of the answer was drawn, and the tokens, int64 [n]."""
        ids = torch.tensor([*prompt.token_ids, *episode.response_ids.tolist()])
        columns = len(prompt.token_ids) + torch.from_numpy(episode.trained_at)
        return self.spelled.logits(self.model(ids[None]).logits[0, columns - 1]).float(), ids[columns]

    def changed(self) -> Any:
        """A model with other weights of similar size."""
        other, generator = copy.deepcopy(self.model), torch.Generator().manual_seed(3)
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(0.9).add_(0.06 * torch.randn(p.shape, generator=generator))
        return other


def padded(model_dir: Path, folder: Path) -> Path:
    """The same model in `folder` with `PADDING` more rows, likely ones, and the same tokenizer."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  (seconds to import)

    shutil.copytree(model_dir, folder, dirs_exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    with torch.random.fork_rng():
        model.resize_token_embeddings(model.config.vocab_size + PADDING, mean_resizing=False)
    head = cast("torch.nn.Linear", model.get_output_embeddings())
    with torch.no_grad():
        head.weight[-PADDING:] = head.weight[:PADDING]
    model.save_pretrained(folder)
    return folder


@contextmanager
def started(e: Engine, model_dir: Path) -> Iterator[Started]:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415  (seconds to import)

    engine = engines.start_engine(e, str(model_dir), SAMPLING, LONGEST)
    try:
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        yield Started(engine, model, Spelled.of(AutoTokenizer.from_pretrained(model_dir), model.config.vocab_size))
    finally:
        engine.close()


def logps(groups: list[Group]) -> list[np.ndarray]:
    return [reported(e) for g in groups for e in g.episodes]


def bits(groups: list[Group]) -> list[tuple[bytes, bytes]]:
    return [(e.trained_ids.tobytes(), reported(e).tobytes()) for g in groups for e in g.episodes]


def drawn(groups: list[Group]) -> list[list[list[int]]]:
    return [[list(e.trained_ids) for e in g.episodes] for g in groups]


@KIT.check("log-probs", "report log softmax(logits/temperature) of the drawn token, with the weights that drew it")
def _logp(e: Engine, model_dir: Path, tolerance: float) -> str | None:
    """sampler_logp is what a full forward pass of the model gives, after temperature"""
    with started(e, model_dir) as s:
        gap = s.gap(s.generate())
        return None if gap <= tolerance else f"a token is off by {gap:.2e} nats"


@KIT.check(
    "episodes",
    "build each answer with Episode.single_turn(token_ids int32 [n], text, logp float32 [n], version, finished), end token included; "
    "finished only if the end token is the last one",
)
def _episodes(e: Engine, model_dir: Path, tolerance: float) -> str | None:
    """groups in the order of the prompts, each with all samples, which end with the end token or at the limit"""
    with started(e, model_dir) as s:
        groups, end = s.generate(), s.model.config.eos_token_id
        if [g.prompt for g in groups] != list(PROMPTS) or any(len(g.episodes) != SAMPLES for g in groups):
            return f"{len(groups)} groups, not one of {SAMPLES} episodes for each of {len(PROMPTS)} prompts in their order"
        for episode in chain.from_iterable(g.episodes for g in groups):
            if (problem := _of_segments(episode)) is not None:
                return problem
            ids = list(episode.trained_ids)
            if not 0 < len(ids) <= SAMPLING.max_tokens or end in ids[:-1] or episode.finished != (ids[-1] == end):
                return f"an answer of {len(ids)} tokens, of at most {SAMPLING.max_tokens}, says finished={episode.finished}"
            if not episode.finished and len(ids) < SAMPLING.max_tokens:
                return "an answer stops before its end and before the limit"
    return None


def _of_segments(episode: Episode) -> str | None:
    """What is wrong with the tokens or log-probs of an engine's episode, or None."""
    if [s.trained for s in episode.segments] != [True]:
        return f"an episode has {len(episode.segments)} segments, not one that is trained"
    (s,) = episode.segments
    if s.logp is None or s.token_ids.dtype != np.int32 or s.logp.dtype != np.float32:
        return f"token_ids {s.token_ids.dtype} [{len(s.token_ids)}], logp {'None' if s.logp is None else s.logp.dtype}"
    return None


@KIT.check(
    "ids without a token",
    "draw from the logits that align.vocabulary.words.Words(model_dir, tokenizer).spelled.logits returns: the learner has no others",
)
def _spelled(e: Engine, model_dir: Path, tolerance: float) -> str | None:
    """of a model whose vocabulary is padded beyond its tokenizer's, only tokens are drawn, and log-probs are normalised over them"""
    with tempfile.TemporaryDirectory() as made, started(e, padded(model_dir, Path(made))) as s:
        groups = s.generate()
        beyond = s.spelled.unknown(torch.tensor([i for group in drawn(groups) for ids in group for i in ids]))
        if len(beyond):
            return f"id {int(beyond[0])} was drawn, and the tokenizer has {len(s.spelled.ids)} tokens"
        gap = s.gap(groups)
        return None if gap <= tolerance else f"a token is off by {gap:.2e} nats"


@KIT.check("seeds", "draw with your own generator, created in each call from its seeds")
def _seeds(e: Engine, model_dir: Path, tolerance: float) -> str | None:
    """the same seeds give the same episodes, and the process's random state does not change"""
    with started(e, model_dir) as s:
        state = torch.get_rng_state()
        one, two = drawn(s.generate(seed=5)), drawn(s.generate(seed=5))
        if one != two:
            return "the same seeds give other answers"
        return None if torch.equal(torch.get_rng_state(), state) else "it draws from the process's random numbers"


@KIT.check("samples", "draw every sample of every prompt independently: a group of equal answers has no advantage")
def _samples(e: Engine, model_dir: Path, tolerance: float) -> str | None:
    """other seeds give other episodes, and the samples of a prompt differ"""
    with started(e, model_dir) as s:
        one, two = drawn(s.generate(seed=5)), drawn(s.generate(seed=6))
        if one == two:
            return "other seeds give the same answers"
        return None if any(a != group[0] for group in one for a in group) else "all samples of a prompt are the same"


@KIT.check("company", "draw the answers of a prompt from its own seed: one generator for each prompt, not one for all")
def _company(e: Engine, model_dir: Path, tolerance: float) -> str | None:
    """in another order, or with fewer other prompts, a prompt gets the same tokens from the same seed; log-probs differ by rounding"""
    with started(e, model_dir) as s:
        seeds = prompt_seeds(len(PROMPTS), 5)
        whole = s.engine.generate(PROMPTS, SAMPLES, seeds)
        for what, places in (("another order", range(len(PROMPTS))[::-1]), ("other company", range(1, len(PROMPTS), 3))):
            alone = s.engine.generate([PROMPTS[i] for i in places], SAMPLES, [seeds[i] for i in places])
            before = [whole[i] for i in places]
            if drawn(alone) != drawn(before):
                return f"{what} gives other answers"
            if (gap := max(np.abs(a - b).max() for a, b in zip(logps(alone), logps(before), strict=True))) > tolerance:
                return f"{what} changes a log-prob by {gap:.2e} nats"
    return None


@KIT.check("units", "return every index once from units(), and compute each unit separately; or return None from units()")
def _units(e: Engine, model_dir: Path, tolerance: float) -> str | None:
    """if it defines units, each prompt is in one unit, and its episodes are the same bits, whatever was drawn before"""
    with started(e, model_dir) as s:
        if (places := e.units([len(p.token_ids) for p in PROMPTS], SAMPLES)) is None:
            return None
        if sorted(chain.from_iterable(places)) != list(range(len(PROMPTS))) or not all(places):
            return f"of {len(PROMPTS)} prompts the units are {places}"
        cut = units(e, PROMPTS, SAMPLES, 5, workers=1)
        whole = s.generate(seed=5)
        backwards = [s.engine.generate(unit.prompts, SAMPLES, unit.seeds) for unit in cut[::-1]]
        same = bits(groups_in_order(cut, backwards[::-1])) == bits(whole)
        return None if same else "units generated one by one, the last one first, give other episodes than all prompts in one call"


@KIT.check("load", "replace every weight before the next token is drawn, clear caches of the old weights, and set `version`")
def _load(e: Engine, model_dir: Path, tolerance: float) -> str | None:
    """after a push from a read-only buffer, the log-probs and versions are those of the new weights"""
    with started(e, model_dir) as s:
        s.generate()
        s.model = s.changed()
        weights = flatten(s.model.named_parameters())
        weights.buffer.setflags(write=False)
        s.engine.load(7, weights)
        groups = s.generate()
        if (gap := s.gap(groups)) > tolerance:
            return f"a token is off by {gap:.2e} nats from the new weights"
        versions = {s.engine.version} | {v for g in groups for e in g.episodes for v in e.versions.tolist()}
        return None if versions == {7} else f"version 7 was loaded, and {sorted(versions)} is reported"


@KIT.check("wrong weights", "compare names and shapes with the checkpoint's before the first byte is written (weight_sync/layout.py)")
def _refuses(e: Engine, model_dir: Path, tolerance: float) -> str | None:
    """weights with a missing or unknown tensor, or another shape, raise ValueError and change nothing"""
    with started(e, model_dir) as s:
        good = dict(s.changed().named_parameters())
        name = next(iter(good))
        wrong = {
            "lack a tensor": {n: t for n, t in good.items() if n != name},
            "have an unknown tensor": good | {"unknown.weight": good[name]},
            "have a tensor of another shape": good | {name: good[name][:-1]},
        }
        for what, tensors in wrong.items():
            try:
                s.engine.load(9, flatten(tensors.items()))
            except ValueError:
                continue
            return f"it takes weights that {what}"
        if (gap := s.gap(s.generate())) > tolerance:
            return f"after refusing, a token is off by {gap:.2e} nats from the old weights"
        return None if s.engine.version == 0 else f"after refusing, version is {s.engine.version}"


@KIT.check("held-out answers", "draw by `drawing` alone, or derive from Engine and not from HeldOutEngine")
def _held_out(e: Engine, model_dir: Path, tolerance: float) -> str | None:
    """a HeldOutEngine draws the most probable token at temperature 0, and by `sampling` after that"""
    with started(e, model_dir) as s:
        if not isinstance(s.engine, RunningHeldOutEngine):
            return None
        before = drawn(s.generate())
        seeds = prompt_seeds(len(PROMPTS), 1)
        greedy = s.engine.generate_held_out(PROMPTS, 1, seeds, Drawing(temperature=0.0))
        if (short := s.below_largest(greedy)) > tolerance:
            return f"at temperature 0 a token is {short:.2e} nats below the most probable one"
        return None if drawn(s.generate()) == before else "what is drawn by `sampling` differs after held-out answers"


@KIT.check("nothing to do", "return an empty list for no prompts")
def _empty(e: Engine, model_dir: Path, tolerance: float) -> str | None:
    """no prompts give no groups"""
    with started(e, model_dir) as s:
        return None if s.generate(prompts=()) == [] else "they do"
