"""The engine contract on a real vLLM, in a process of its own as under Ray, and what is particular to vLLM."""

import os
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.engine_contract import LONGEST, SHAPE, EngineContract, ask, gap, log_distribution, prompts
from helpers.models import tiny_model
from helpers.own_tokenizers import saved, with_holes
from transformers import AutoModelForCausalLM
from unit.environments.playing import recipe

from align.engines import Drawing, Sampling
from align.engines.vllm import DEFAULT_UTILIZATION, Vllm
from align.environments import start_environment
from align.errors import UserError
from align.types import Prompt
from align.weight_sync.flattening import flatten
from align.workers.turns import PlayingEngine

PADDED = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False}


class EngineProcess(BaseManager):
    """Makes engines in a child process and calls them there."""


EngineProcess.register("Vllm", Vllm, exposed=("start",), method_to_typeid={"start": "RunningVllm"})
EngineProcess.register("RunningVllm", exposed=("generate", "generate_held_out", "load", "close"), create_method=False)


@pytest.fixture(scope="module")
def new_engine():
    """One process for all engines of this file, one after the other: importing vllm takes most of the time."""
    before = dict(os.environ)
    os.environ.update({**Vllm().environment, "OMP_NUM_THREADS": "1"})
    try:
        process = EngineProcess(ctx=get_context("spawn"))
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    yield process.Vllm
    process.shutdown()


class TestVllm(EngineContract):
    tolerance = 2e-5


def test_held_out_answers_of_the_most_probable_tokens_and_of_a_nucleus(new_engine, tmp_path):
    folder = tiny_model(tmp_path / "model", tied=False, **SHAPE)
    model, engine = AutoModelForCausalLM.from_pretrained(folder), new_engine().start(str(folder), Sampling(max_tokens=8), LONGEST)
    asked, below = prompts(4), 0
    try:
        for drawing, samples, most in ((Drawing(temperature=0.0), 1, 1e-6), (Drawing(temperature=1.0, top_p=0.5), 4, 0.5 + 1e-3)):
            for group in engine.generate_held_out(asked, samples, list(range(len(asked))), drawing):
                for episode in group.episodes:
                    tokens, start = torch.from_numpy(episode.trained_ids).long(), len(group.prompt.token_ids)
                    p = log_distribution(model, (*group.prompt.token_ids, *tokens.tolist()), 1.0)[start - 1 : -1].exp()
                    above = (p * (p > p.gather(1, tokens[:, None]))).sum(1)
                    assert above.max() < most
                    below += int((above > 0).sum())
    finally:
        engine.close()
    assert below > 0, "the nucleus has more than the most probable token"


def test_episodes_with_an_environment(new_engine, tmp_path):
    """log mu of every turn is of the whole context, and the same seeds play the same episodes."""
    folder = tiny_model(tmp_path / "model", tied=False, **SHAPE)
    built = recipe(folder, engine="vllm", sampling={"max_tokens": 30, "temperature": 2.0})
    engine = new_engine().start(str(folder), built.sampling, 4 + built.response_tokens - built.sampling.max_tokens)
    playing = PlayingEngine(built, start_environment(built.environment), engine, str(folder))
    try:
        one, two = (ask(playing, prompts(6), 3, 5) for _ in range(2))
    finally:
        playing.close()
    model, episodes = AutoModelForCausalLM.from_pretrained(folder), [(g.prompt, e) for g in one for e in g.episodes]
    assert sum(len(e.played.rewards) > 1 for _, e in episodes) > 4
    assert [e.response_ids.tolist() for _, e in episodes] == [e.response_ids.tolist() for g in two for e in g.episodes]
    for prompt, e in episodes:
        ids = torch.tensor([*prompt.token_ids, *e.response_ids.tolist()])
        at = torch.from_numpy(e.trained_at) + len(prompt.token_ids)
        logp = log_distribution(model, tuple(ids.tolist()), built.sampling.temperature)[at - 1, ids[at]]
        assert np.abs(logp.numpy() - e.sampler_logp).max() < TestVllm.tolerance


def test_long_prompts_that_share_their_beginning_in_the_cache(new_engine, tmp_path):
    """The cache of prompts is emptied when weights come: a stale entry would answer with the old ones."""
    folder, other = (tiny_model(tmp_path / str(seed), tied=False, **SHAPE, seed=seed) for seed in (0, 1))
    other = AutoModelForCausalLM.from_pretrained(other)
    engine = new_engine(prefix_cache=True).start(str(folder), Sampling(max_tokens=8), LONGEST)
    asked = prompts(3, lengths=(LONGEST,))
    ask(engine, asked, 4, 0)
    engine.load(1, flatten(other.named_parameters()))
    assert gap(ask(engine, asked, 4, 1), other, 1.0) < TestVllm.tolerance
    engine.close()


def test_ids_without_a_token_are_never_drawn_and_have_no_probability(new_engine, tmp_path):
    folder = saved(tmp_path, with_holes({"<pad>": 0, "<eos>": 3, "a": 4, "b": 5, "c": 9, "d": 11}), rows=64, **PADDED)
    engine = new_engine().start(str(folder), Sampling(max_tokens=6), 8)
    groups = engine.generate([Prompt(id="1", text="", token_ids=(4, 5))], 64, [0])
    model, own = AutoModelForCausalLM.from_pretrained(folder), [0, 3, 4, 5, 9, 11]
    drawn = [e.trained_ids.tolist() for e in groups[0].episodes]
    assert {i for ids in drawn for i in ids} == set(own)
    for ids, episode in zip(drawn, groups[0].episodes, strict=True):
        with torch.no_grad():
            logp = torch.log_softmax(model(torch.tensor([[4, 5, *ids]])).logits[0, 1:-1, own], -1)
        assert np.abs(episode.sampler_logp - logp[range(len(ids)), [own.index(i) for i in ids]].numpy()).max() < TestVllm.tolerance
    engine.close()


@pytest.mark.parametrize(
    ("keys", "model", "says"),
    [
        ({"gpu_memory_utilization": 0.5}, SHAPE, r"engine\.gpu_memory_utilization: changes nothing on a CPU; delete the key"),
        ({}, {}, r"vLLM on a CPU has no attention for heads of 8, only for \[32, 64"),
    ],
    ids=["gpu key", "head size"],
)
def test_what_a_cpu_cannot_do_is_said_before_the_model_is_loaded(new_engine, tmp_path, keys, model, says):
    with pytest.raises(UserError, match=says):
        new_engine(**keys).start(str(tiny_model(tmp_path, **model)), Sampling(), 16)


def test_the_default_share_of_a_gpu_is_vllms_own():
    source = Path(find_spec("vllm").origin).parent / "entrypoints" / "llm.py"  # an import would take ten seconds
    assert f"gpu_memory_utilization: float = {DEFAULT_UTILIZATION}," in source.read_text()


def test_a_mixture_of_experts_is_refused_on_a_cpu(new_engine, tmp_path):
    """Its log-probs would be wrong after the first push, without a word."""
    folder = tiny_model(
        tmp_path, kind="qwen3_moe", tied=False, **SHAPE, head_dim=32, num_experts=4, moe_intermediate_size=32, num_experts_per_tok=2
    )
    with pytest.raises(UserError, match="vLLM on a CPU cannot take new weights for a mixture of experts; use engine: transformers"):
        new_engine().start(str(folder), Sampling(max_tokens=8), 16)
