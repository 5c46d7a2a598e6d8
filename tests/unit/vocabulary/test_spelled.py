"""Ids that no token has: no engine draws them, and the learner's probabilities are over the others alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.own_tokenizers import byte_tokenizer, saved, with_holes
from transformers import AutoModelForCausalLM, AutoTokenizer
from unit.learner.small import make

from align.engines import Sampling
from align.engines.transformers import Transformers
from align.errors import RunStopped
from align.experience.packing import pack
from align.types import Episode, Group, Prompt, Rewards
from align.vocabulary.model_folder import checked
from align.vocabulary.spelled import Spelled

HOLES = {"<pad>": 0, "<eos>": 3, "a": 4, "b": 5, "c": 9, "d": 11}
TEMPERATURE = 0.7


@pytest.fixture(scope="module", params=["padded", "holes"])
def folder(request, tmp_path_factory) -> Path:
    """320 rows for 257 tokens; or 16 rows for 6 tokens with ids between them."""
    tokenizer, rows = (byte_tokenizer(("<|endoftext|>",)), 320) if request.param == "padded" else (with_holes(HOLES), 16)
    return saved(tmp_path_factory.mktemp(request.param), tokenizer, rows=rows, tie_word_embeddings=False)


def tokens_of(folder: Path) -> list[int]:
    rows = AutoModelForCausalLM.from_pretrained(folder).config.vocab_size
    own = set(range(257)) if rows == 320 else set(HOLES.values())
    return sorted(own)


def drawn(folder: Path, samples: int = 24) -> list[Group]:
    engine = Transformers(device="cpu").start(str(folder), Sampling(max_tokens=6, temperature=TEMPERATURE), 4)
    prompts = [Prompt(id=str(i), text="", token_ids=ids) for i, ids in enumerate(((4, 5), (5, 4, 4)))]
    return engine.generate(prompts, samples, [1, 2])


@torch.no_grad()
def expected(folder: Path, groups: list[Group]) -> list[torch.Tensor]:
    """log softmax over the tokens alone, [n, tokens] of each episode."""
    model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), []
    for g in groups:
        for e in g.episodes:
            logits = model(torch.tensor([[*g.prompt.token_ids, *e.trained_ids.tolist()]])).logits[0, len(g.prompt.token_ids) - 1 : -1]
            found.append(torch.log_softmax(logits[:, tokens_of(folder)] / TEMPERATURE, -1))
    return found


def of_drawn(folder: Path, groups: list[Group], logps: list[torch.Tensor]) -> torch.Tensor:
    own = tokens_of(folder)
    ids = [[own.index(i) for i in e.trained_ids.tolist()] for g in groups for e in g.episodes]
    return torch.cat([logp[range(len(i)), i] for logp, i in zip(logps, ids, strict=True)])


def test_the_engine_draws_tokens_and_normalises_over_them(folder: Path):
    groups = drawn(folder)
    ids = {i for g in groups for e in g.episodes for i in e.trained_ids.tolist()}
    assert ids <= set(tokens_of(folder)) and len(ids) > 4
    own = np.concatenate([e.sampler_logp for g in groups for e in g.episodes])
    np.testing.assert_allclose(own, of_drawn(folder, groups, expected(folder, groups)).numpy(), atol=1e-5)


@pytest.mark.parametrize("lora", [0, 2])
def test_the_learner_normalises_as_the_engine_does(folder: Path, lora: int):
    """Log-prob, entropy and exact divergences, against sums over the tokens in float32; and the rows of no token do not move."""
    exact = {"estimator": "exact", "coefficient": 0.1}
    learner = make(
        folder,
        sampling={"max_tokens": 6, "temperature": TEMPERATURE},
        model={"path": str(folder), "lora": {"rank": lora}},
        algorithm={"name": "grpo", "minibatches": 2},
        optimizer={"lr": 0.01},
        regularizers={"kl": exact, "entropy": exact | {"reference": "uniform"}},
    )
    groups = drawn(folder, samples=3)
    batch = replace(pack(groups, Rewards(values=np.arange(6, dtype=np.float32))), betas={"kl": 0.1, "entropy": 0.1})
    batch = learner.compute_logprobs(batch)
    logps = expected(folder, groups)
    torch.testing.assert_close(batch.old_logp, of_drawn(folder, groups, logps), rtol=0, atol=1e-5)
    entropy = torch.cat([-(p.exp() * p).sum(-1) for p in logps])
    torch.testing.assert_close(batch.entropy, entropy, rtol=0, atol=1e-5)
    before = learner.policy.causal_lm.get_output_embeddings().weight.detach().clone()
    ones = torch.ones(len(batch.seq_ids))
    stats = learner.update(replace(batch, advantages=ones, penalty_weights=dict.fromkeys(batch.betas, ones)), 0)
    assert stats["engine/gap"].mean < 1e-5
    at_start = learner.exact_kl(pack(groups, None)).mean
    assert at_start > 0, "the policy has moved"
    others = sorted(set(range(len(before))) - set(tokens_of(folder)))
    after = learner.policy.causal_lm.get_output_embeddings().weight
    assert torch.equal(after[others], before[others]) and (lora or not torch.equal(after, before))


def test_exact_divergences_are_over_the_tokens(folder: Path):
    learner = make(folder, sampling={"max_tokens": 6, "temperature": TEMPERATURE})
    groups = drawn(folder, samples=2)
    before = expected(folder, groups)
    with torch.no_grad():
        learner.policy.causal_lm.get_output_embeddings().weight.mul_(1.5)
    learner.export(str(folder / "changed"))
    after = expected_of(folder / "changed", folder, groups)
    kl = sum(float((p.exp() * (p - q)).sum()) for p, q in zip(after, before, strict=True)) / 4
    assert learner.exact_kl(pack(groups, None)).mean == pytest.approx(kl, rel=1e-4)


def expected_of(changed: Path, folder: Path, groups: list[Group]) -> list[torch.Tensor]:
    assert tokens_of(changed) == tokens_of(folder)
    return expected(changed, groups)


def test_a_uniform_reference_counts_tokens(folder: Path):
    learner = make(folder, regularizers={"entropy": {"estimator": "exact", "coefficient": 0.1, "reference": "uniform"}})
    batch = pack(drawn(folder, samples=1), None)
    known = learner.references["entropy"].known(batch)
    assert known[0].item() == pytest.approx(-math.log(len(tokens_of(folder))))


def test_an_id_of_no_token_stops_the_run(folder: Path):
    group = Group(prompt=Prompt(id="1", text="", token_ids=(4,)), episodes=(Episode.single_turn(np.int32([4, 14]), ""),))
    if 14 in tokens_of(folder):
        group = replace(group, episodes=(Episode.single_turn(np.int32([4, 300]), ""),))
    learner = make(folder)
    for score in (learner.compute_logprobs, learner.exact_kl):
        with pytest.raises(RunStopped, match=r"the answers hold id (14|300), and no token .* has it"):
            score(pack([group], None))


def test_it_is_told_once(folder: Path):
    (note,) = checked(str(folder), AutoTokenizer.from_pretrained(folder))
    assert note.startswith("model: 63 of 320 ids" if "padded" in str(folder) else "model: 10 of 16 ids")


def test_a_vocabulary_without_gaps_costs_nothing():
    whole = Spelled(torch.arange(5))
    logits = torch.randn(3, 5)
    assert whole.logits(logits).data_ptr() == logits.data_ptr() and whole.places(logits) is logits and whole.missing(5) == 0
