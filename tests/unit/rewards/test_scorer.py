"""The scorer against transformers' own reading of what it exports, and against scores of the prefixes for its values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.built import single_turn
from helpers.models import KINDS, tiny_model, tiny_scorer, tiny_tokenizer
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from align.config.schema import Lora, Model
from align.errors import UserError
from align.learner.policy import Policy
from align.learner.reward_model import RewardModel
from align.types import TokenBatch


def scorer(folder: Path, *, seed: int = 0, lora: int = 0, **options) -> RewardModel:
    torch.manual_seed(seed)
    return RewardModel(str(folder), Model(path=str(folder), lora=Lora(rank=lora), **options))


def batch(end: int | None = None) -> TokenBatch:
    """Answers of 1 to 5 random tokens, none the pad token, `end` the last of each, after prompts of 1 to 3; padded by 0."""
    generator = torch.Generator().manual_seed(0)
    prompts, lengths = torch.tensor([3, 1, 2, 2, 1]), torch.tensor([2, 5, 1, 4, 3])
    ids = torch.zeros(5, 6, dtype=torch.int64)
    for i, total in enumerate((prompts + lengths).tolist()):
        ids[i, :total] = torch.randint(3, 26, (total,), generator=generator)
        if end is not None:
            ids[i, total - 1] = end
    return TokenBatch(input_ids=ids, **single_turn(prompts, lengths), group_ids=torch.arange(5))


@torch.no_grad()
def moved(made: RewardModel, scale: float = 0.1) -> RewardModel:
    """As training leaves it: every trained parameter elsewhere."""
    generator = torch.Generator().manual_seed(7)
    for _, p in made.trained():
        p.add_(scale * torch.randn(p.shape, generator=generator))
    return made


def pooled(folder: Path | str, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForSequenceClassification.from_pretrained(folder).eval()(input_ids=ids).logits.squeeze(-1)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lora", [0, 3], ids=["whole", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_it_exports_scores_as_it_does(tmp_path, kind, lora):
    made = moved(scorer(tiny_model(tmp_path / "policy", kind=kind, tied=kind != "llama"), lora=lora))
    scores = made.scores(batch()).detach()
    made.export(tmp_path / "scorer")
    assert scores.std() > 0.01
    assert same(pooled(tmp_path / "scorer", batch().input_ids), scores)
    again = scorer(tmp_path / "scorer", seed=9)
    assert same(again.scores(batch()).detach(), scores)
    config = json.loads((tmp_path / "scorer" / "config.json").read_text())
    assert config["pad_token_id"] == AutoTokenizer.from_pretrained(tmp_path / "scorer").pad_token_id == 0


def test_a_value_is_the_score_of_what_came_before(tmp_path):
    """Each state by itself: the prefix alone, without padding, through transformers' own model."""
    made, b = moved(scorer(tiny_model(tmp_path / "policy"))), batch()
    made.export(tmp_path / "scorer")
    values = made.values(b)
    prefixes = [b.input_ids[s, :c] for s, c in zip(b.seq_ids.tolist(), b.columns.tolist(), strict=True)]
    assert same(values.detach(), torch.cat([pooled(tmp_path / "scorer", ids[None]) for ids in prefixes]))
    assert values.requires_grad and values.dtype == torch.float32


def test_values_stand_where_the_policys_states_do(tmp_path):
    folder = tiny_model(tmp_path)
    made, policy = scorer(folder), Policy(str(folder), Model(path=str(folder)))
    expected = policy.hidden(batch()) @ made.classifier.score.weight.T
    assert same(made.values(batch()).detach(), expected.squeeze(-1).detach())


def test_the_head_is_drawn_from_the_callers_seed_and_is_small(tmp_path):
    folder = tiny_model(tmp_path)
    heads = [scorer(folder, seed=seed).classifier.score.weight.detach() for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert heads[0].shape == (1, 32) and 0.5 / 33 < heads[0].std() < 2 / 33


def test_a_trained_scorer_keeps_its_head(tmp_path):
    folder = tiny_scorer(tmp_path)
    assert torch.equal(scorer(folder).classifier.score.weight, load_file(folder / "model.safetensors")["score.weight"])


def test_with_lora_adapters_and_head_are_trained_and_the_adapter_is_saved_with_its_head(tmp_path):
    folder = tiny_scorer(tmp_path / "base")
    made = scorer(folder, lora=2)
    before = {n: p.clone() for n, p in made.module.named_parameters()}
    assert {n.rpartition("layers.")[2].split(".")[3] if "lora" in n else n for n, _ in made.trained()} == {
        "lora_A",
        "lora_B",
        "base_model.model.score.modules_to_save.default.weight",
    }
    optimizer = torch.optim.AdamW([p for _, p in made.trained()], lr=0.05)
    start = made.scores(batch()).sum().item()
    for _ in range(3):
        optimizer.zero_grad()
        made.scores(batch()).sum().backward()
        optimizer.step()
    moved_names = {n for n, p in made.module.named_parameters() if not torch.equal(p, before[n])}
    assert made.scores(batch()).sum() < start and moved_names == {n for n, _ in made.trained()}
    made.export(tmp_path / "trained")
    adapted = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(folder), tmp_path / "trained" / "adapter").eval()
    assert same(adapted(input_ids=batch().input_ids).logits.squeeze(-1).detach(), made.scores(batch()).detach())


def with_pad(folder: Path, pad: str | None, spare: str | None = None) -> Path:
    """The model's tokenizer pads with `pad`, and knows `spare` beside it."""
    tokenizer = tiny_tokenizer()
    if spare:
        tokenizer.add_special_tokens({"additional_special_tokens": [spare]})
    tokenizer.pad_token = pad
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("spare", "pad"), [(None, "<pad>"), ("<|fim_pad|>", "<pad>")])
@pytest.mark.parametrize("before", ["<eos>", None], ids=["end token", "none"])
def test_the_end_token_is_read_although_it_pads(tmp_path, before, spare, pad):
    """transformers would pass over an end token that is also the pad token, and read the score at the token before."""
    made = moved(scorer(with_pad(tiny_model(tmp_path / "policy"), before, spare)))
    made.export(tmp_path / "scorer")
    assert made.tokenizer.pad_token == pad
    padded = torch.where(torch.arange(6) < batch().totals[:, None], batch(end=2).input_ids, made.tokenizer.pad_token_id)
    assert same(pooled(tmp_path / "scorer", padded), made.scores(batch(end=2)).detach())


def test_a_tokenizer_without_any_pad_token_gets_one(tmp_path):
    folder = tiny_model(tmp_path / "policy")
    for file in folder.glob("tokenizer*"):
        file.write_text(file.read_text().replace('"pad_token": "<pad>"', '"pad_token": "<eos>"').replace("<pad>", "<unused>"))
    new = len(AutoTokenizer.from_pretrained(folder))
    for lora in (0, 2):
        made = moved(scorer(folder, lora=lora))
        made.export(tmp_path / f"scorer{lora}")
        assert (made.tokenizer.pad_token, made.tokenizer.pad_token_id) == ("<|pad|>", new)
        padded = torch.where(torch.arange(6) < batch().totals[:, None], batch(end=2).input_ids, new)
        assert same(pooled(tmp_path / f"scorer{lora}", padded), made.scores(batch(end=2)).detach())
        assert len(AutoTokenizer.from_pretrained(tmp_path / f"scorer{lora}")) == made.classifier.get_input_embeddings().num_embeddings


def test_lower_precision_scores_are_float32_and_near(tmp_path):
    folder = tiny_scorer(tmp_path, spread=0.1)
    full, half = scorer(folder), scorer(folder, dtype="bfloat16")
    assert half.classifier.score.weight.dtype == torch.bfloat16 and half.scores(batch()).dtype == torch.float32
    assert torch.allclose(half.scores(batch()), full.scores(batch()), atol=0.05)


def test_activation_checkpointing_changes_no_gradient(tmp_path):
    folder = tiny_scorer(tmp_path, kind="gpt2")
    gradients = []
    for option in (False, True):
        made = scorer(folder, activation_checkpointing=option)
        assert made.classifier.is_gradient_checkpointing is option
        made.scores(batch()).square().sum().backward()
        gradients.append([p.grad for _, p in made.trained() if p.grad is not None])
    assert len(gradients[0]) > 20 and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_what_is_no_scorer_is_refused_by_name(tmp_path):
    def refused(folder: Path, match: str) -> None:
        with pytest.raises(UserError, match=match) as told:
            RewardModel(str(folder), Model(path=str(folder)), "critic separate: path")
        assert str(told.value).startswith("critic separate: path: ") and str(folder) in str(told.value)

    refused(tmp_path / "nowhere", "holds no model")
    refused(tiny_scorer(tmp_path / "two", num_labels=2), "has 2 output classes")
    untokenized = tiny_scorer(tmp_path / "untokenized")
    for file in untokenized.glob("tokenizer*"):
        file.unlink()
    refused(untokenized, "holds no tokenizer")
    scorer(tiny_model(tmp_path / "policy"), lora=2).export(tmp_path / "run")
    refused(tmp_path / "run" / "adapter", "peft adapter")
    incomplete = tiny_scorer(tmp_path / "incomplete")
    weights = {n: t for n, t in load_file(incomplete / "model.safetensors").items() if n != "score.weight"}
    save_file(weights, incomplete / "model.safetensors", metadata={"format": "pt"})
    refused(incomplete, r"lacks score\.weight")
    config = BertConfig(vocab_size=26, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "encoder")
    tiny_tokenizer().save_pretrained(tmp_path / "encoder")
    refused(tmp_path / "encoder", "not one linear layer called score")
