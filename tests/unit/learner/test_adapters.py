"""What may have an adapter: layers whose merged weight changes them alone, and that run with one."""

from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model
from helpers.rollouts import groups
from transformers import AutoModelForCausalLM

from align.config.schema import Lora, Model
from align.core.logprobs import token_stats
from align.errors import UserError
from align.experience.packing import pack
from align.learner.policy import Policy


def policy(folder: Path, targets: str) -> Policy:
    return Policy(str(folder), Model(path=str(folder), lora=Lora(rank=2, targets=targets)))


@pytest.mark.parametrize(
    ("kind", "targets", "names"),
    [
        ("qwen2", "embed_tokens,q_proj", r"model\.embed_tokens\.weight is also lm_head\.weight \(tied weights\).*leave embed_tokens out"),
        ("gpt2", "wte,c_attn", r"transformer\.wte\.weight is also lm_head\.weight \(tied weights\).*leave wte out"),
        ("qwen2", "lm_head", "the head cannot have an adapter"),
    ],
)
def test_a_tied_weight_has_no_adapter(tmp_path: Path, kind: str, targets: str, names: str):
    with pytest.raises(UserError, match=r"^model\.lora\.targets: " + names):
        policy(tiny_model(tmp_path, kind=kind), targets)


@pytest.mark.parametrize(
    ("kind", "tied", "targets"),
    [("qwen2", False, "embed_tokens,q_proj"), ("qwen2", True, "all-linear"), ("gpt2", True, "all-linear"), ("gpt2", False, "wte,wpe,c_fc")],
)
def test_the_exported_model_has_the_log_probs_of_the_adapted_one(tmp_path: Path, kind: str, tied: bool, targets: str):
    adapted, batch = policy(tiny_model(tmp_path, kind=kind, tied=tied), targets), pack(groups(), None)
    torch.manual_seed(0)
    for _, p in adapted.trained():
        p.data.normal_(std=0.3)
    adapted.export(tmp_path / "out")
    with torch.no_grad():
        found = token_stats(adapted.hidden(batch), adapted.head(), batch.tokens).logp
        logits = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(batch.input_ids).logits
    own = logits.log_softmax(-1)[batch.seq_ids, batch.columns - 1, batch.tokens]
    torch.testing.assert_close(found, own, rtol=0, atol=1e-4)
