"""The transformers engine: the contract, other architectures, and the parts of its sampler."""

import numpy as np
import pytest
import torch
from helpers.engine_contract import EngineContract, answers, ask, changed, gap, prompts
from helpers.models import tiny_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.config.nodes import build_part
from align.engines import Drawing, Sampling
from align.engines._sampler import draw, sample
from align.engines.transformers import RunningTransformers, Transformers
from align.errors import RecipeError, UserError
from align.weight_sync.flattening import flatten

MIXTURE = {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2, "head_dim": 8}
HYBRID = {
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}


@pytest.fixture(scope="module")
def new_engine():
    return lambda: Transformers(max_batch=40)


class TestTransformers(EngineContract):
    tolerance = 1e-5


def started(folder, max_batch=512, **sampling) -> RunningTransformers:
    return Transformers(max_batch=max_batch).start(str(folder), Sampling(**sampling), 16)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [("llama", {}), ("mistral", {}), ("gemma2", {}), ("gpt2", {}), ("qwen3_moe", MIXTURE), ("qwen3_5_text", HYBRID)],
    ids=["llama", "mistral-window-5", "gemma2-softcap", "gpt2", "qwen3-moe-fused-experts", "qwen3.5-recurrent-layers"],
)
def test_every_kind_of_model_before_and_after_a_push(tmp_path, kind, keys):
    """40 tokens: beyond the sliding windows, and beyond the room of the first buffer."""
    folder = tiny_model(tmp_path, kind=kind, tied=kind in ("gemma2", "gpt2"), spread=0.1, **keys)
    engine, model = started(folder, temperature=0.8, max_tokens=40), AutoModelForCausalLM.from_pretrained(folder)
    assert gap(ask(engine, prompts(6), 5, 0), model, 0.8) < 1e-5
    model = changed(model, 1)
    model.save_pretrained(tmp_path / "changed")
    engine.load(1, flatten(load_file(tmp_path / "changed" / "model.safetensors").items()))
    assert gap(ask(engine, prompts(6), 5, 0), model, 0.8) < 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


def test_dropping_finished_rows_changes_no_token(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    uniforms = torch.rand(40, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ids, is_end, never = [p.token_ids for p in prompts(6)], torch.zeros(26, dtype=torch.bool), torch.zeros(26, dtype=torch.bool)
    is_end[2] = True
    dropped, kept = (sample(model, ids, 4, Drawing(temperature=1.0), ends, uniforms) for ends in (is_end, never))
    assert len(set(dropped.lengths.tolist())) > 5 and (kept.lengths == 40).all()
    for row, length in enumerate(dropped.lengths.tolist()):
        assert torch.equal(dropped.tokens[row, :length], kept.tokens[row, :length])
        assert (dropped.logp[row, :length] - kept.logp[row, :length]).abs().max() < 1e-5


def test_the_batch_size_changes_no_token(folder):
    one, all_at_once = (answers(ask(started(folder, max_batch=b, max_tokens=20), prompts(7), 4, 3)) for b in (1, 512))
    assert one == all_at_once


def test_the_process_wide_random_state_is_neither_read_nor_changed(folder):
    engine, drawn = started(folder, max_tokens=8), []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        drawn.append(answers(ask(engine, prompts(3), 4, 0)))
        assert torch.equal(torch.get_rng_state(), before)
    assert drawn[0] == drawn[1]


def test_draw_gives_each_token_its_share_of_the_unit_interval():
    probability = torch.tensor([0.0, 0.125, 0.5, 0.0, 0.25, 0.125, 0.0])
    grid = (torch.arange(800, dtype=torch.float64) + 0.5) / 800
    counts = torch.bincount(draw(probability.log().expand(800, -1), grid), minlength=7)
    assert counts.tolist() == [0, 100, 400, 0, 200, 100, 0]


def test_draw_never_takes_an_impossible_token():
    logp = torch.tensor([0.0, 0.3, 0.7, 0.0]).log().expand(2, -1)
    assert draw(logp, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 2]


def test_no_prompts_no_groups(folder):
    assert ask(started(folder), [], 4, 0) == []


def test_weights_are_cast_to_the_engines_dtype(folder):
    engine, model = started(folder, max_tokens=8), changed(AutoModelForCausalLM.from_pretrained(folder), 5)
    engine.load(1, flatten((n, p.double()) for n, p in model.named_parameters()))
    assert gap(ask(engine, prompts(4), 2, 0), model, 1.0) < 1e-5


def test_a_model_is_sampled_in_the_precision_it_was_saved_in(tmp_path, folder):
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    half, full = (started(f, max_tokens=8) for f in (tmp_path, folder))
    assert (half._model.dtype, full._model.dtype) == (torch.bfloat16, torch.float32)
    logp = np.concatenate([r.sampler_logp for r in ask(half, prompts(1), 8, 0)[0].episodes])
    # The softmax is in float32 whatever the model is in.
    assert logp.dtype == np.float32 and not np.array_equal(logp, torch.from_numpy(logp).bfloat16().float().numpy())


def test_no_room_for_prompt_and_response(tmp_path):
    with pytest.raises(UserError, match=r"sampling\.max_tokens: a prompt of 16 tokens and 497 more are 513, but the model has 512"):
        started(tiny_model(tmp_path), max_tokens=497)


def test_a_model_without_keys_and_values_is_refused(tmp_path):
    with pytest.raises(UserError, match="a mamba model keeps no keys and values"):
        started(tiny_model(tmp_path, kind="mamba", tied=False))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"max_batch": 0}, "engine: max_batch must be at least 1, not 0"),
        ({"device": "abacus"}, "engine: device must be auto or a torch device"),
        ({"max_bach": 3}, r"engine\.max_bach: unknown key; did you mean 'max_batch'"),
    ],
)
def test_wrong_keys_are_refused(keys, says):
    with pytest.raises(RecipeError, match=says):
        build_part("engine", {"name": "transformers", **keys}, "engine")


def test_a_gpu_that_is_not_there(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"engine\.device: cuda:0 was asked for, but torch sees no GPU"):
        Transformers(device="cuda:0").start(str(folder), Sampling(), 16)


def test_the_scripted_engine_says_its_lines_with_the_models_log_probs(folder):
    part = build_part("engine", {"name": "scripted", "answers": ["1,2", "345678901"], "max_batch": 2}, "engine")
    engine = part.start(str(folder), Sampling(temperature=0.7, max_tokens=6), 16)
    groups, model = ask(engine, prompts(3), 3, 0), AutoModelForCausalLM.from_pretrained(folder)
    rollouts = [e for g in groups for e in g.episodes]
    assert [r.text for r in rollouts] == (["1,2", "345678"] * 5)[:9]
    assert [r.finished for r in rollouts] == ([True, False] * 5)[:9]
    assert rollouts[0].trained_ids.tolist() == [4, 18, 5, 2] and rollouts[0].trained_ids.dtype == np.int32
    assert gap(groups, model, 0.7) < 1e-5
    model = changed(model, 1)
    engine.load(1, flatten(model.named_parameters()))
    groups = ask(engine, prompts(3), 3, 0)
    assert gap(groups, model, 0.7) < 1e-5 and {v for g in groups for e in g.episodes for v in e.versions.tolist()} == {1}


def test_a_scripted_engine_needs_lines():
    with pytest.raises(RecipeError, match="answers must hold at least one text"):
        build_part("engine", {"name": "scripted", "answers": []}, "engine")
