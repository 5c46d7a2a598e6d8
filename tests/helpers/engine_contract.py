"""What every engine must do, written once: `TestX(EngineContract)` runs it on engine X.

The oracle is one forward pass of the transformers model over prompt and answer, without padding, cache or batch.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.engines import RunningEngine, Sampling
from align.types import Group, Prompt
from align.weight_sync.flattening import Entry, Weights, flatten
from align.workers.shards import prompt_seeds
from helpers.models import tiny_model

LONGEST = 300
"""Tokens: more than vLLM keeps together in a block, and than an engine's first buffers hold."""
SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "spread": 0.15}
"""Heads of a size that vLLM's CPU attention knows."""


def prompts(count: int, lengths: tuple[int, ...] = (3, 7, 11), seed: int = 0) -> list[Prompt]:
    """Digits, of several lengths."""
    random = np.random.default_rng(seed)
    ids = [tuple(int(x) for x in random.integers(3, 13, lengths[i % len(lengths)])) for i in range(count)]
    return [Prompt(id=f"p{seed}.{i}", text="", token_ids=x) for i, x in enumerate(ids)]


@torch.no_grad()
def log_distribution(model: torch.nn.Module, ids: tuple[int, ...], temperature: float) -> torch.Tensor:
    """log pi of what follows each token: [n, V], nats."""
    return torch.log_softmax(model(torch.tensor([ids])).logits[0].float() / temperature, -1)


def gap(groups: list[Group], model: torch.nn.Module, temperature: float) -> float:
    """The largest |log mu - log pi| of a token, nats."""
    gaps = []
    for group in groups:
        for episode in group.episodes:
            tokens = torch.from_numpy(episode.trained_ids).long()
            ids = (*group.prompt.token_ids, *tokens.tolist())
            logp = log_distribution(model, ids, temperature)[len(group.prompt.token_ids) - 1 : -1]
            gaps.append(np.abs(episode.sampler_logp - logp.gather(1, tokens[:, None]).squeeze(1).numpy()).max())
    return float(max(gaps))


def ask(engine: RunningEngine, prompts: list[Prompt], samples: int, seed: int) -> list[Group]:
    return engine.generate(prompts, samples, prompt_seeds(len(prompts), seed))


def answers(groups: list[Group]) -> list[list[list[int]]]:
    return [[e.trained_ids.tolist() for e in g.episodes] for g in groups]


def changed(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """A copy with other weights, about as large: far enough that a stale tensor shows."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.9).add_(0.06 * torch.randn(p.shape, generator=generator))
    return other


@dataclass
class Started:
    """An engine, and the model whose weights it holds."""

    engine: Any
    model: torch.nn.Module
    folder: Path
    sampling: Sampling
    tied: bool
    version: int = 0

    def push(self, seed: int) -> None:
        self.model, self.version = changed(self.model, seed), self.version + 1
        self.engine.load(self.version, flatten(self.model.named_parameters()))

    def check(self, groups: list[Group], tolerance: float) -> None:
        """Its log-probs are those of the model, to `tolerance` nats."""
        found = gap(groups, self.model, self.sampling.temperature)
        assert found < tolerance, f"log-probs are off by up to {found} nats"


class EngineContract:
    """A subclass gives `tolerance` and a module-scoped fixture `new_engine`, a function that makes the part."""

    tolerance: float
    """Nats."""

    @pytest.fixture(scope="class", params=[(True, 1.0), (False, 0.7)], ids=["tied-T1", "untied-T0.7"])
    @classmethod
    def started(cls, request, new_engine, tmp_path_factory):
        tied, temperature = request.param
        folder = tiny_model(tmp_path_factory.mktemp("model"), tied=tied, **SHAPE)
        sampling = Sampling(temperature=temperature, max_tokens=12)
        engine = new_engine().start(str(folder), sampling, LONGEST)
        yield Started(engine, AutoModelForCausalLM.from_pretrained(folder), folder, sampling, tied)
        engine.close()

    def test_log_probs_are_those_of_a_full_forward_pass_after_temperature(self, started):
        groups = ask(started.engine, prompts(12), 4, 1)
        assert all(e.sampler_logp.dtype == np.float32 for g in groups for e in g.episodes)
        started.check(groups, self.tolerance)

    def test_answers_end_with_the_end_token_or_at_the_limit(self, started):
        groups = ask(started.engine, prompts(12), 8, 2)
        tokenizer = AutoTokenizer.from_pretrained(started.folder)
        rollouts = [e for g in groups for e in g.episodes]
        assert {r.finished for r in rollouts} == {True, False}
        for r in rollouts:
            assert r.trained_ids.dtype == np.int32 and len(r.sampler_logp) == len(r.trained_ids)
            assert tokenizer.eos_token_id not in r.trained_ids[:-1]
            assert r.finished == (r.trained_ids[-1] == tokenizer.eos_token_id)
            assert r.finished or len(r.trained_ids) == started.sampling.max_tokens
            assert r.text == "".join(t for t in tokenizer.convert_ids_to_tokens(r.trained_ids.tolist()) if len(t) == 1)

    def test_groups_come_in_the_order_of_the_prompts(self, started):
        asked = prompts(9)
        groups = ask(started.engine, asked, 3, 3)
        assert [g.prompt for g in groups] == asked and all(len(g.episodes) == 3 for g in groups)

    def test_a_seed_gives_the_same_answers_and_another_seed_others(self, started):
        first, again, other = (answers(ask(started.engine, prompts(6), 4, seed)) for seed in (5, 5, 6))
        assert first == again and all(a != b for a, b in zip(first, other, strict=True))

    def test_answers_do_not_depend_on_the_rest_of_the_batch(self, started):
        asked = prompts(10)
        seeds = prompt_seeds(len(asked), 7)
        whole = answers(started.engine.generate(asked, 4, seeds))
        assert answers(started.engine.generate(asked[6:2:-1], 4, seeds[6:2:-1])) == whole[6:2:-1]

    def test_a_prompt_that_comes_twice_is_answered_afresh(self, started):
        asked = prompts(1)
        first, second = answers(ask(started.engine, asked * 2, 8, 8))
        assert first != second and len({tuple(a) for a in first}) > 1

    def test_tokens_are_drawn_from_the_distribution_that_is_reported(self, started):
        """5 standard errors of each frequency, and a token's own share where it is rarer than that."""
        asked, count = prompts(1)[0], 4000
        groups = ask(started.engine, [asked], count, 9)
        drawn = Counter(int(r.trained_ids[0]) for r in groups[0].episodes)
        probability = log_distribution(started.model, asked.token_ids, started.sampling.temperature)[-1].exp().numpy()
        frequency = np.array([drawn[v] for v in range(len(probability))]) / count
        assert (np.abs(frequency - probability) < 5 * np.sqrt(probability / count) + 1 / count).all()

    def test_long_prompts(self, started):
        """Together more tokens than an engine reads at once."""
        groups = ask(started.engine, prompts(32, lengths=(LONGEST, 140, 129), seed=1), 2, 10)
        started.check(groups, self.tolerance)

    def test_weights_are_replaced_twice(self, started):
        for seed in (1, 2):
            old = started.model
            started.push(seed)
            groups = ask(started.engine, prompts(12), 4, 11)
            started.check(groups, self.tolerance)
            assert gap(groups, old, started.sampling.temperature) > 0.1, "the old weights would have passed"
            assert {v for g in groups for e in g.episodes for v in e.versions.tolist()} == {started.version}

    def test_nothing_of_the_old_weights_answers_a_long_prompt(self, started):
        asked = prompts(4, lengths=(LONGEST,), seed=2)
        ask(started.engine, asked, 2, 12)
        started.push(3)
        started.check(ask(started.engine, asked, 2, 12), self.tolerance)

    @pytest.mark.parametrize(
        ("fault", "says"),
        [
            ("missing", r"missing: model\.layers\.0\.self_attn\.q_proj\.weight"),
            ("unknown", r"unknown: base_model\.norm\.weight"),
            ("shape", r"of another shape: model\.norm\.weight \[32\] instead of \[64\]"),
            ("half", r"missing: .* and \d+ more"),
        ],
    )
    def test_weights_that_do_not_fit_are_named_and_change_nothing(self, started, fault, says):
        given = dict(changed(started.model, 4).named_parameters())
        if fault == "missing":
            del given["model.layers.0.self_attn.q_proj.weight"]
        elif fault == "unknown":
            given["base_model.norm.weight"] = given["model.norm.weight"]
        elif fault == "shape":
            given["model.norm.weight"] = given["model.norm.weight"][:32]
        else:
            given = dict(list(given.items())[::2])
        with pytest.raises(ValueError, match=says):
            started.engine.load(99, flatten(given.items()))
        groups = ask(started.engine, prompts(6), 2, 13)
        started.check(groups, self.tolerance)
        assert {v for g in groups for e in g.episodes for v in e.versions.tolist()} == {started.version}

    def test_a_tied_head_is_not_pushed_a_second_time(self, started):
        state = flatten(started.model.state_dict().items())
        if started.tied:
            with pytest.raises(ValueError, match=r"tied to another tensor, to be left out: lm_head\.weight"):
                started.engine.load(99, state)
        else:
            started.engine.load(started.version, state)
            started.check(ask(started.engine, prompts(6), 2, 14), self.tolerance)

    def test_a_read_only_buffer_will_do(self, started):
        """As an object store hands it out."""
        weights = flatten(started.model.named_parameters())
        weights.buffer.setflags(write=False)
        entries = tuple(Entry(**vars(e)) for e in weights.manifest)
        started.engine.load(started.version, Weights(manifest=entries, buffer=weights.buffer))
        started.check(ask(started.engine, prompts(6), 2, 15), self.tolerance)
