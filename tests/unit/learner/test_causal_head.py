"""What stands between a decoder's states and the logits is read from the model's own forward pass."""

from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model
from helpers.rollouts import groups
from torch import Tensor
from transformers import Qwen2ForCausalLM

from align.config.schema import Model
from align.core.head_form import HeadForm, fit, probes
from align.core.logprobs import token_stats
from align.errors import UserError
from align.experience.packing import pack
from align.learner.policy import Policy

FORMS = {
    "qwen2": ({}, HeadForm(1.0, None)),
    "granite": ({"logits_scaling": 8.0}, HeadForm(0.125, None)),
    "hyperclovax": ({"logits_scaling": 0.25}, HeadForm(0.25, None)),
    "cohere": ({"logit_scale": 0.3}, HeadForm(0.3, None)),
    "gemma2": ({}, HeadForm(1.0, 3.0)),
    "minicpm3": (
        {"dim_model_base": 16, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8},
        HeadForm(0.5, None),
    ),
    "falcon_h1": ({"lm_head_multiplier": 0.7, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_state": 8}, HeadForm(0.7, None)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", FORMS)
def test_multipliers_and_caps_are_those_of_the_forward_pass(tmp_path: Path, kind: str, dtype: str):
    keys, form = FORMS[kind]
    policy = Policy(str(tiny_model(tmp_path, kind=kind, **keys)), Model(path=str(tmp_path), dtype=dtype))
    head, batch = policy.head(), pack(groups(), None)
    assert (head.scale, head.softcap) == form
    with torch.no_grad():
        found = token_stats(policy.hidden(batch), head, batch.tokens).logp
        logits = policy.causal_lm(input_ids=batch.input_ids, use_cache=False).logits.float()
    own = logits.log_softmax(-1)[batch.seq_ids, batch.columns - 1, batch.tokens]
    torch.testing.assert_close(found, own, rtol=0, atol=1e-5 if dtype == "float32" else 0.05)


@pytest.mark.parametrize(
    "form", [HeadForm(1.0, None), HeadForm(1 / 3, 30.0), HeadForm(-2.5, None), HeadForm(0.7, 0.5), HeadForm(40.0, 5.0)]
)
def test_a_form_is_found_from_its_values(form: HeadForm):
    outputs = probes(26)
    assert fit(outputs, form.logits(outputs)) == form


@pytest.mark.parametrize(
    "logits", [torch.zeros_like, torch.square, torch.relu, lambda z: z.clamp(-30, 30), lambda z: 30 * torch.sigmoid(z / 30)]
)
def test_what_is_no_form_is_none(logits):
    outputs = probes(26)
    assert fit(outputs, logits(outputs)) is None


def mask_a_token(logits: Tensor) -> Tensor:
    return logits.index_fill(-1, torch.tensor([3]), -1e9)


@pytest.mark.parametrize("change", [mask_a_token, lambda logits: logits[..., :20], lambda logits: logits.log_softmax(-1)])
def test_another_way_from_outputs_to_logits_is_refused(tmp_path: Path, monkeypatch, change):
    forward = Qwen2ForCausalLM.forward

    def changed(self, **keys):
        out = forward(self, **keys)
        out.logits = change(out.logits)
        return out

    monkeypatch.setattr(Qwen2ForCausalLM, "forward", changed)
    folder = tiny_model(tmp_path)
    with pytest.raises(
        UserError, match=r"^reference teacher: path: Qwen2ForCausalLM cannot be trained: its logits are not its head's "
    ) as error:
        Policy(str(folder), Model(path=str(folder)), "reference teacher: path")
    assert "\n" not in str(error.value)


def test_layers_before_the_head_are_refused(tmp_path: Path):
    folder = tiny_model(tmp_path, kind="bert", is_decoder=True)
    with pytest.raises(UserError, match=r"^model\.path: BertLMHeadModel cannot be trained: between its decoder and its head it does more"):
        Policy(str(folder), Model(path=str(folder)))


def test_a_model_without_a_linear_head_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Qwen2ForCausalLM, "get_output_embeddings", lambda self: None)
    with pytest.raises(UserError, match="Qwen2ForCausalLM cannot be trained: it is not one decoder followed by one linear head"):
        Policy(str(tiny_model(tmp_path)), Model(path=str(tmp_path)))
