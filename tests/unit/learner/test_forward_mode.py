"""Every pass of a model is the same, whatever its configuration says of dropout; adapters have dropout in an update alone."""

from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model
from unit.learner.small import batch, capture_gradient, make, parameters

from align.config.schema import Model
from align.errors import UserError
from align.learner.policy import Policy

OPT = {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5}
DROPPED = {
    "qwen2": {"attention_dropout": 0.5},
    "gpt2": {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
    "opt": OPT,
    "biogpt": {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "layerdrop": 0.5, "activation_dropout": 0.5},
}
"""Dropouts that are modules, functions of `self.training`, and whole layers."""
SFT = {"algorithm": "sft", "reward": None, "batch": {"prompts": 4}}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", DROPPED)
def test_two_passes_are_equal(tmp_path: Path, kind: str, checkpointing: bool):
    learner = make(
        tiny_model(tmp_path, kind=kind, **DROPPED[kind]),
        model={"path": str(tmp_path), "activation_checkpointing": checkpointing},
        regularizers={"kl": {"coefficient": 0.1, "estimator": "exact"}},
    )
    scored = batch(learner)
    with torch.no_grad():
        assert torch.equal(learner.policy.hidden(scored), learner.policy.hidden(scored))
    hidden = learner.policy.hidden(scored)
    assert hidden.requires_grad and torch.equal(hidden, learner.policy.hidden(scored))
    assert learner.update(scored, 0)["divergence/kl"].mean == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", DROPPED)
def test_activation_checkpointing_computes_each_layer_twice_and_changes_no_gradient(tmp_path: Path, kind: str):
    folder = tiny_model(tmp_path, kind=kind, **DROPPED[kind])
    plain, saving = make(folder), make(folder, model={"path": str(folder), "activation_checkpointing": True})
    calls = {id(plain): [0], id(saving): [0]}
    for learner in (plain, saving):
        attention = next(m for n, m in learner.policy.causal_lm.named_modules() if n.endswith("attn"))
        attention.register_forward_hook(lambda *_, count=calls[id(learner)]: count.__setitem__(0, count[0] + 1))
    scored = batch(plain), batch(saving)
    before = [calls[id(learner)][0] for learner in (plain, saving)]
    a, b = capture_gradient(plain, scored[0]), capture_gradient(saving, scored[1])
    plainly, twice = (calls[id(learner)][0] - n for learner, n in zip((plain, saving), before, strict=True))
    assert twice == 2 * plainly > 0
    for name, g in a.items():
        torch.testing.assert_close(b[name], g, rtol=1e-5, atol=1e-8)


def test_an_architecture_without_layers_to_recompute_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"^model\.activation_checkpointing: transformers cannot recompute the layers of a CTRLLMHeadModel"):
        make(tiny_model(tmp_path, kind="ctrl", dff=48, n_positions=512), model={"path": str(tmp_path), "activation_checkpointing": True})


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_have_dropout_in_an_update_alone(model: Path, checkpointing: bool):
    options = {"path": str(model), "activation_checkpointing": checkpointing}

    def learner(dropout: float):
        made = make(model, model={**options, "lora": {"rank": 4, "dropout": dropout}}, **SFT)
        for _, p in made.policy.trained():
            p.data.fill_(0.1)  # B is 0 at first, which hides what A's inputs are
        return made

    dropping, plain = learner(0.5), learner(0.0)
    scored = batch(plain)
    with torch.no_grad():
        assert torch.equal(dropping.policy.hidden(scored), plain.policy.hidden(scored))
    assert dropping.measure(scored)["loss/policy"] == plain.measure(scored)["loss/policy"]
    with_dropout, without = capture_gradient(dropping, scored), capture_gradient(plain, scored)
    assert any(not torch.allclose(with_dropout[n], without[n]) for n in without)
    with torch.no_grad():
        assert torch.equal(dropping.policy.hidden(scored), plain.policy.hidden(scored))


def test_dropout_follows_from_the_seed_and_the_step(model: Path):
    def after(noise: int, step: int) -> torch.Tensor:
        learner = make(model, model={"path": str(model), "lora": {"rank": 4, "dropout": 0.5}}, **SFT)
        for _, p in learner.policy.trained():
            p.data.fill_(0.1)
        scored = batch(learner)
        torch.manual_seed(noise)
        learner.update(scored, step)
        return torch.cat([p.flatten() for p in parameters(learner).values()])

    assert torch.equal(after(1, 0), after(2, 0)) and not torch.equal(after(1, 0), after(1, 1))


def test_attention_is_that_of_the_key_or_the_best_that_the_architecture_has(model: Path):
    def attention(name: str | None) -> str | None:
        return Policy(str(model), Model(path=str(model), attn_implementation=name)).config._attn_implementation

    assert [attention(name) for name in (None, "sdpa", "eager")] == ["sdpa", "sdpa", "eager"]
    with pytest.raises(UserError, match=r"^model\.attn_implementation: flash_attention_2 cannot be used: "):
        attention("flash_attention_2")
