"""References that are other models: teachers, checkpoints, soups and adapters, and what is refused of them."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from unit.references.learners import batch, exact_kl, hf, logp_of, make, reference_logp, sampled, trained

from align.config import schema
from align.config.nodes import build_part
from align.errors import RecipeError, UserError
from align.learner.learner import Learner


def test_a_teacher_of_another_architecture(folder: Path, tmp_path: Path):
    tiny_model(tmp_path, kind="llama", seed=5, hidden_size=16, num_hidden_layers=1)
    wide = AutoModelForCausalLM.from_pretrained(tmp_path)
    wide.resize_token_embeddings(40)  # padded, as families do for their larger models
    wide.save_pretrained(tmp_path)
    learner = make(folder, {"name": "teacher", "path": str(tmp_path)})
    scored = batch(learner)
    teacher, policy = logp_of(AutoModelForCausalLM.from_pretrained(tmp_path), scored, rows=26), logp_of(hf(folder, "initial"), scored)
    torch.testing.assert_close(reference_logp(learner, scored), sampled(teacher, scored), rtol=0, atol=1e-5)
    assert exact_kl(learner, scored) == pytest.approx((policy.exp() * (policy - teacher)).sum().item() / 12, rel=1e-5)
    before = learner.references["kl"].content_hash()
    learner.update(scored, 0)
    assert learner.references["kl"].content_hash() == before


def test_a_teacher_over_other_tokens_is_refused(folder: Path, tmp_path: Path):
    narrow = hf(folder, "second")
    narrow.resize_token_embeddings(20)
    narrow.save_pretrained(tmp_path / "narrow")
    tiny_tokenizer().save_pretrained(tmp_path / "narrow")
    with pytest.raises(UserError, match=r"reference teacher: the head of .* has 20 rows, the policy's has 26"):
        make(folder, {"name": "teacher", "path": str(tmp_path / "narrow")})
    shutil.copytree(folder / "second", tmp_path / "other")
    words = tiny_tokenizer().backend_tokenizer.to_str().replace('"7":10', '"7":11').replace('"8":11', '"8":10')
    (tmp_path / "other" / "tokenizer.json").write_text(words)
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path / "other").get_vocab()["7"] == 11
    with pytest.raises(UserError, match=r"another vocabulary than the policy: 2 tokens differ, the first '7' \(id 10 here, 11 there\)"):
        make(folder, {"name": "teacher", "path": str(tmp_path / "other")})
    with pytest.raises(UserError, match=r"reference teacher: path: .*nowhere"):
        make(folder, {"name": "teacher", "path": str(tmp_path / "nowhere")})


@pytest.mark.parametrize(
    ("path", "lora", "alpha", "model"),
    [
        ("third", 0, 32.0, "third"),
        ("third", 4, 32.0, "third"),
        ("adapter", 0, 32.0, "run"),
        ("adapter", 4, 32.0, "run"),
        ("adapter", 4, 8.0, "run"),
    ],
)
def test_a_checkpoint_is_that_model(folder: Path, path: str, lora: int, alpha: float, model: str):
    """`run` is `adapter` merged into `initial`, by the export that has its own test."""
    learner = make(folder, {"name": "checkpoint", "path": str(folder / path)}, lora=lora, alpha=alpha)
    for step in range(2):  # it stays, whatever the policy does
        scored = batch(learner, step)
        torch.testing.assert_close(reference_logp(learner, scored), sampled(logp_of(hf(folder, model), scored), scored), rtol=0, atol=2e-5)
        learner.update(scored, step)
    if path == "adapter" and lora:
        assert learner.references["kl"].parameters().keys() == trained(learner).keys(), "an adapter costs an adapter"


def test_a_checkpoint_that_does_not_fit_is_refused(folder: Path, tmp_path: Path):
    tiny_model(tmp_path / "wide", tied=False, intermediate_size=64)
    tiny_model(tmp_path / "tied")
    for path, lora, says in (
        ("wide", 0, r"down_proj.weight is \[32, 64\], the policy's is \[32, 48\]"),
        ("tied", 0, "lm_head.weight is in one of them only"),
        ("wide", 4, "not of the policy's architecture"),
    ):
        with pytest.raises(UserError, match=says):
            make(folder, {"name": "checkpoint", "path": str(tmp_path / path)}, lora=lora)
    with pytest.raises(UserError, match=r"not of the policy's shape: .*lora_A.* is \[4, 48\], the policy's is \[2, 48\]"):
        make(folder, {"name": "checkpoint", "path": str(folder / "adapter")}, lora=2)


def test_a_folder_with_an_adapter_is_no_initial_policy(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "initial", tmp_path / "both")
    shutil.copy(folder / "adapter" / "adapter_config.json", tmp_path / "both")
    with pytest.raises(UserError, match="holds a peft adapter; give a folder with the merged model"):
        make(tmp_path, "frozen", model="both")


def test_a_head_with_an_adapter_is_refused(folder: Path):
    node = copy.deepcopy(make(folder, "frozen").recipe)
    with pytest.raises(UserError, match="the head cannot have an adapter"):
        Learner(replace(node, model=replace(node.model, lora=schema.Lora(rank=2, targets="q_proj,lm_head"))), str(folder / "initial"))


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize(
    ("weights", "shares"), [([], (1 / 3, 1 / 3, 1 / 3)), ([0.2, 0.5], (0.3, 0.2, 0.5)), ([0.25, 0.75], (0, 0.25, 0.75))]
)
def test_a_soup_is_the_average_of_the_weights(folder: Path, lora: int, weights: list[float], shares: tuple[float, ...]):
    paths = [str(folder / "second"), str(folder / "third")]
    learner = make(folder, {"name": "soup", "paths": paths, "weights": weights}, lora=lora)
    soup = hf(folder, "initial")
    parts = [dict(hf(folder, name).named_parameters()) for name in ("initial", "second", "third")]
    with torch.no_grad():
        for name, p in soup.named_parameters():
            p.copy_(sum(share * part[name].double() for share, part in zip(shares, parts, strict=True)).float())
    scored = batch(learner)
    torch.testing.assert_close(reference_logp(learner, scored), sampled(logp_of(soup, scored), scored), rtol=0, atol=2e-5)


def test_the_kl_to_a_soup_of_two_heads(folder: Path, tmp_path: Path):
    """SALSA, exact where logits are linear in what differs: KL(pi||soup) = mean_i KL(pi||SFT_i) + log sum_y sqrt(SFT_1 SFT_2)."""
    other = hf(folder, "initial")
    with torch.no_grad():
        other.lm_head.weight.copy_(hf(folder, "second").lm_head.weight)
    other.save_pretrained(tmp_path)
    learner = make(folder, {"name": "soup", "paths": [str(tmp_path)], "weights": [0.5]})
    for _, p in learner.policy.trained():
        p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    scored = batch(learner)
    one, two, pi = (logp_of(m, scored).double() for m in (hf(folder, "initial"), other, learner.policy.module))
    mean = ((pi.exp() * (2 * pi - one - two)).sum(-1)) / 2
    expected = (mean + torch.logsumexp((one + two) / 2, -1)).sum().item() / 12
    assert exact_kl(learner, scored) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"name": "soup", "paths": []}, "at least one"),
        ({"name": "soup", "paths": ["a"], "weights": [0.5, 0.5]}, "one for each path: 1, not 2"),
        ({"name": "soup", "paths": ["a", "b"], "weights": [0.7, 0.7]}, "at most 1"),
        ({"name": "soup", "paths": ["a"], "weights": [0.0]}, "positive"),
        ({"name": "hard_reset", "every": 0}, "at least 1"),
        ({"name": "window", "last": 1}, "hard_reset"),
        ({"name": "window", "decay": 1.5}, r"decay must lie in \(0, 1\]"),
        ({"name": "ema", "rate": 1.0}, "hard_reset"),
        ({"name": "ema", "rate": 0.0}, "frozen"),
        ({"name": "ema", "every": 0}, "at least 1"),
        ({"name": "teacher"}, "must be given"),
        ({"name": "checkpoint"}, "must be given"),
        ({"name": "soup"}, "must be given"),
    ],
)
def test_keys_that_make_no_sense_are_refused(node: dict, says: str):
    with pytest.raises(RecipeError, match=says):
        build_part("reference", node, "here")


def test_folders_are_absolute_before_they_travel(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    built = build_part("reference", {"name": "soup", "paths": ["a", "/b"]}, "here")
    assert built.paths == (f"{tmp_path}/a", "/b")
    assert build_part("reference", {"name": "teacher", "path": "a"}, "here").path == f"{tmp_path}/a"
    assert build_part("reference", {"name": "checkpoint", "path": "../a"}, "here").path == f"{tmp_path}/../a"
