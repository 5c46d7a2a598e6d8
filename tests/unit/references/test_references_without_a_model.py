"""References that cost no model: uniform, the sampler, and another one after a longer prompt."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.rollouts import groups
from transformers import AutoModelForCausalLM
from unit.references.learners import PLUGIN, hf, make, reference_logp

from align.config import recipes
from align.errors import RecipeError
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.types import Episode, Group, Rewards, TokenBatch

VOCABULARY = 26


def batch(learner: Learner, drawn: list[Group] | None = None) -> TokenBatch:
    drawn = drawn or groups()
    rewards = Rewards(values=np.random.default_rng(0).random(12).astype(np.float32))
    betas = {name: 0.1 for name in learner.recipe.regularizers}
    return prepare_batch(learner.recipe, learner.compute_logprobs(replace(pack(drawn, rewards), betas=betas)))


def logits_of(model: torch.nn.Module, packed: TokenBatch) -> torch.Tensor:
    """[T, V] by transformers alone, each sequence by itself."""
    starts, ends = packed.first_columns - 1, packed.totals - 1
    return torch.cat(
        [
            model(ids[None, : end + 1]).logits[0, start:end]
            for ids, start, end in zip(packed.input_ids, starts.tolist(), ends.tolist(), strict=True)
        ]
    )


def gradient(learner: Learner, scored: TokenBatch) -> dict[str, torch.Tensor]:
    found = {}
    learner.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in learner.policy.trained()})
    learner.update(scored, 0)
    return found


@pytest.mark.parametrize(
    ("divergence", "entropy"),
    [
        ("reverse_kl", lambda p: math.log(VOCABULARY) + (p * p.log()).sum(-1)),
        ({"name": "tsallis", "q": 2.0}, lambda p: (VOCABULARY - 1) - VOCABULARY * (1 - (p**2).sum(-1))),
    ],
)
def test_a_divergence_from_uniform_is_an_entropy(folder: Path, divergence, entropy):
    """Value and gradient: D(pi||U) of autograd through transformers' own logits, without one forward pass of a reference."""
    learner = make(folder, "uniform", minibatches=1, divergence=divergence, algorithm={"surrogate": "reinforce"})
    scored = replace(batch(learner), advantages=torch.zeros(int(pack(groups(), None).lengths.sum())))
    passes, hidden = [], learner.policy.hidden
    learner.policy.hidden = lambda *args: passes.append(1) or hidden(*args)
    model = hf(folder, "initial")
    states = entropy(torch.softmax(logits_of(model, scored) / 0.7, -1))
    stats = learner.measure(scored)
    assert len(passes) == 1 and stats["divergence/kl"].sum == pytest.approx(states.sum().item(), rel=1e-5)
    (0.1 * states.mean()).backward()
    expected = {n: p.grad for n, p in model.named_parameters()}
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    for name, g in gradient(learner, scored).items():
        torch.testing.assert_close(g, expected[name] * min(1.0, 1.0 / norm.item()), rtol=1e-3, atol=1e-6)


def test_sampled_from_uniform(folder: Path):
    learner = make(folder, "uniform", estimator="sampled")
    assert batch(learner).ref_logp["kl"] == pytest.approx(np.full(len(batch(learner).seq_ids), -math.log(VOCABULARY)), rel=1e-6)
    assert learner.update(batch(learner), 0)["divergence/kl"].mean > 0


def drawn() -> list[Group]:
    rng = np.random.default_rng(3)
    return [
        replace(g, episodes=tuple(Episode.single_turn(e.trained_ids, e.text, -rng.random(e.length).astype(np.float32)) for e in g.episodes))
        for g in groups()
    ]


def test_the_sampler_is_known_by_its_own_log_probs(folder: Path):
    learner = make(folder, "sampler", minibatches=1, estimator="k2")
    batch(learner, drawn())  # the first batch of a run is checked too
    passes, hidden = [], learner.policy.hidden
    learner.policy.hidden = lambda *args: passes.append(1) or hidden(*args)
    scored = batch(learner, drawn())
    assert torch.equal(scored.ref_logp["kl"], scored.sampler_logp) and not passes
    stats = learner.measure(scored)
    own = torch.log_softmax(logits_of(hf(folder, "initial"), scored) / 0.7, -1).gather(1, scored.tokens[:, None])[:, 0]
    assert stats["divergence/kl"].sum == pytest.approx((0.5 * (own - scored.sampler_logp) ** 2).sum().item(), rel=1e-4)


@pytest.mark.parametrize("of", ["frozen", {"name": "checkpoint", "path": "third"}])
@pytest.mark.parametrize("first", [1, 5])
def test_a_context_is_the_reference_after_a_longer_prompt(folder: Path, of, first: int):
    """A prompt that begins with <bos> (1) gets the text behind it."""
    if isinstance(of, dict):
        of = of | {"path": str(folder / of["path"])}
    learner = make(folder, {"name": "context", "prepend": "12+3", "of": of})
    prompts = [replace(g, prompt=replace(g.prompt, token_ids=(first, *g.prompt.token_ids))) for g in groups()]
    scored = batch(learner, prompts)
    told = learner.policy.tokenizer("12+3", add_special_tokens=False)["input_ids"]
    longer = [
        replace(
            g, prompt=replace(g.prompt, token_ids=(first, *told, *g.prompt.token_ids[1:]) if first == 1 else (*told, *g.prompt.token_ids))
        )
        for g in prompts
    ]
    model = AutoModelForCausalLM.from_pretrained(folder / ("initial" if of == "frozen" else "third"))
    expected = torch.log_softmax(logits_of(model, pack(longer, None)) / 0.7, -1).gather(1, scored.tokens[:, None])[:, 0]
    torch.testing.assert_close(reference_logp(learner, scored), expected.detach(), rtol=0, atol=2e-5)
    assert learner.update(scored, 0)["divergence/kl"].mean > 0


def test_a_context_moves_as_its_reference_does(folder: Path, tmp_path: Path):
    node = {"name": "context", "prepend": "7", "of": {"name": "ema", "rate": 0.3}}
    learner = make(folder, node)
    learner.update(batch(learner), 0)
    assert learner.references["kl"].version == 2
    learner.save(str(tmp_path / "saved"))
    other = make(folder, node)
    other.load(str(tmp_path / "saved"))
    assert other.references["kl"].version == 2 and other.reference_info() == learner.reference_info()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "exact", "reference": "sampler"}, "keeps the log-probs of the answers alone"),
        ({"reference": {"name": "context", "prepend": ""}}, "prepend must not be empty"),
    ],
)
def test_what_has_no_meaning_is_refused(changes: dict, message: str):
    node = {
        "steps": 1,
        "task": f"{PLUGIN}:OnePrompt",
        "reward": f"{PLUGIN}:ByToken",
        "algorithm": "grpo",
        "model": {"path": "nowhere"},
        "regularizers": {"kl": {"coefficient": 0.1} | changes},
    }
    with pytest.raises(RecipeError, match=message):
        recipes.build(node)


def test_demonstrations_have_no_sampler():
    node = {
        "steps": 1,
        "task": "countdown",
        "algorithm": "dpo",
        "model": {"path": "nowhere"},
        "regularizers": {"kl": {"coefficient": 0.1, "placement": "link", "reference": "sampler"}},
    }
    with pytest.raises(RecipeError, match=r"regularizers\.kl\.reference: dpo learns from rankings, which no engine drew"):
        recipes.build(node)
