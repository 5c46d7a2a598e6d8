"""Every causal architecture of transformers: the learner computes, sends and exports the user's model, or refuses it in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.architectures import tiny_architecture, tiny_config
from helpers.models import tiny_tokenizer
from helpers.rollouts import groups
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from unit.learner.small import node

from align.config import recipes
from align.config.schema import Lora, Model
from align.errors import UserError
from align.experience.packing import pack
from align.learner import budgets
from align.learner import policy as policy_file
from align.learner.agreement import Agreement, some_rows
from align.learner.policy import Policy
from align.weight_sync.flattening import flatten as flatten_weights
from align.weight_sync.flattening import unflatten
from align.weight_sync.layout import Layout

NOT_BUILT = {
    "gemma3n": "requires the timm library",
    "gemma4_assistant": "has no attribute 'vocab_size'",  # a draft model, which reads the states of another one
    "gemma4_unified_assistant": "has no attribute 'vocab_size'",
    "musicgen": "Validation error for field 'text_encoder'",  # music; its configuration needs those of three whole models
    "musicgen_melody": "Validation error for field 'text_encoder'",
}
"""Architectures without a tiny model, with what transformers says."""
LAYERS = r"cannot be trained: between its decoder and its head it does more than multiply by a number: "
NOT_CAUSAL = r"the learner's log-probs differ .* reads padding or the other rows of a batch \(attention that is not causal\)"
LOADED = "holds no causal language model that transformers loads: "
REFUSED = {
    **dict.fromkeys(("bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "modernbert-decoder"), LAYERS),
    **dict.fromkeys(
        ("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod"), LAYERS
    ),
    "prophetnet": LAYERS,
    **dict.fromkeys(("bert-generation", "cpmant", "xlm", "xlnet"), NOT_CAUSAL),
    **dict.fromkeys(("emu3", "mllama"), LOADED),  # transformers saves the configuration of the text model alone
    "rwkv": "its forward pass writes into its own weights, 4 of them, the first rwkv.blocks.0.attention.output.weight",
}
LORA = (
    *("qwen2", "gpt2", "gpt_neox", "opt", "bloom", "mixtral", "qwen3_moe", "gpt_oss", "granitemoe", "deepseek_v3"),
    *("qwen3_next", "aria_text", "olmoe", "phi3", "falcon", "glm4_moe", "minimax"),
)
"""Architectures whose adapters or names differ: Conv1D, fused projections, fused experts, renamed layers."""
ROWS = some_rows(pack(groups(), None))


@pytest.fixture(autouse=True)
def one_tokenizer(monkeypatch):
    """The tokenizer is not what is tested, and takes half the time to read and write."""
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained = lambda folder: None
    monkeypatch.setattr(policy_file, "load_tokenizer", lambda folder, where: tokenizer)


def agreement(policy: Policy) -> Agreement:
    recipe = recipes.build(node(Path(policy.model_dir)))
    return Agreement(recipe, budgets.cpu_budgets(recipe.batch), policy, ROWS, "model")


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("kind", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_the_learner_computes_sends_and_exports_the_users_model(kind: str, tmp_path: Path):
    if kind in NOT_BUILT:
        with pytest.raises(Exception, match=NOT_BUILT[kind]), torch.device("meta"):
            AutoModelForCausalLM.from_config(tiny_config(kind))
        return
    tiny_architecture(kind, tmp_path)
    if kind in REFUSED:
        with pytest.raises(UserError, match=REFUSED[kind]) as error:
            agreement(Policy(str(tmp_path), Model(path=str(tmp_path)))).stop_unless_the_models_own()
        assert str(error.value).startswith("model") and "\n" not in str(error.value)
        return
    policy, saved = Policy(str(tmp_path), Model(path=str(tmp_path))), weights(tmp_path)
    agreement(policy).stop_unless_the_models_own()
    sent = dict(policy.tensors())
    assert sent.keys() == saved.keys() and all(torch.equal(sent[n], t) for n, t in saved.items())
    assert [(n, t.shape, t.dtype) for n, t in policy.alike()] == [(n, t.shape, t.dtype) for n, t in sent.items()]
    policy.export(tmp_path / "out")
    exported = weights(tmp_path / "out")
    assert exported.keys() == saved.keys() and all(torch.equal(exported[n], t) for n, t in saved.items())


@pytest.mark.parametrize("kind", LORA)
def test_adapters_are_merged_into_what_is_sent_and_exported(kind: str, tmp_path: Path):
    tiny_architecture(kind, tmp_path)
    policy = Policy(str(tmp_path), Model(path=str(tmp_path), lora=Lora(rank=2)))
    torch.manual_seed(0)
    for _, p in policy.trained():
        p.data += 0.1 * torch.randn_like(p)
    check = agreement(policy)
    check.stop_unless_the_models_own()
    sent = flatten_weights(policy.tensors())
    assert [(e.name, e.shape) for e in sent.manifest] == [(n, tuple(t.shape)) for n, t in policy.alike()]
    own = type(policy.causal_lm).from_pretrained(tmp_path)
    Layout.of(own).check(sent)
    assert_same(policy, type(own).from_pretrained(None, config=own.config, state_dict={n: t.clone() for n, t in unflatten(sent)}))
    policy.export(tmp_path / "out")
    check.stop_unless_exported(str(tmp_path / "out"))


@pytest.mark.parametrize("kind", ["llama4_text", "phimoe"])
def test_a_router_that_returns_two_tensors_has_no_adapter(kind: str, tmp_path: Path):
    tiny_architecture(kind, tmp_path)
    with pytest.raises(
        UserError, match=r"^model\.lora\.targets: \w+ does not run with adapters there \(AttributeError: .*name other layers$"
    ):
        Policy(str(tmp_path), Model(path=str(tmp_path), lora=Lora(rank=2)))
    Policy(str(tmp_path), Model(path=str(tmp_path), lora=Lora(rank=2, targets="q_proj,v_proj")))


@torch.no_grad()
def assert_same(policy: Policy, model: PreTrainedModel) -> None:
    """Of merged adapters and of adapters beside their layers, which round differently."""
    ids = ROWS.input_ids[:1]
    expected = policy.causal_lm(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(model.eval()(input_ids=ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
