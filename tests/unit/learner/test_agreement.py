"""Before training and after export, the learner's log-probs are those of the model that the user loads."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model
from helpers.rollouts import groups
from transformers import AutoModelForCausalLM
from unit.learner.small import batch, make

from align.core.agreement import LIMITS, largest_gap
from align.errors import UserError
from align.experience.packing import pack
from align.learner import agreement
from align.learner.agreement import COLUMNS, ROWS, some_rows

OFFLINE = {"reward": None, "batch": {"prompts": 4}}
RECIPES = {
    "grpo": {},
    "sft": {"algorithm": "sft", **OFFLINE},
    "dpo": {"algorithm": "dpo", **OFFLINE, "regularizers": {"kl": {"placement": "link", "coefficient": 0.1}}},
    "reward_model": {"algorithm": "reward_model", **OFFLINE},
}


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("algorithm", RECIPES)
def test_a_trained_model_agrees_before_and_after(model: Path, tmp_path: Path, algorithm: str, dtype: str, lora: int):
    learner = make(model, **RECIPES[algorithm], model={"path": str(model), "dtype": dtype, "lora": {"rank": lora}})
    learner.compute_logprobs(pack(groups(), None))
    for _, p in learner.trained():
        p.data += 0.05 * torch.randn_like(p)
    learner.export(str(tmp_path))


def test_the_rows_are_the_beginnings_of_the_shortest_to_the_longest():
    whole = pack(groups(), None)
    rows = some_rows(whole)
    assert len(rows.lengths) == ROWS and rows.totals.tolist() == sorted(rows.totals.tolist())
    assert (rows.totals.min(), rows.totals.max()) == (whole.totals.min(), whole.totals.max())
    assert torch.equal(rows.tokens, torch.cat([ids[1:n] for ids, n in zip(rows.input_ids, rows.totals, strict=True)]))
    long = replace(whole, input_ids=whole.input_ids.repeat(1, 40), totals=whole.totals * 40)
    assert some_rows(long).input_ids.shape == (ROWS, COLUMNS) and some_rows(long).columns.max() == COLUMNS - 1


def refused(learner, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        learner.compute_logprobs(pack(groups(), None))
    assert "\n" not in str(error.value)


def test_random_numbers_in_the_forward_pass_stop_the_run(tmp_path: Path):
    learner = make(tiny_model(tmp_path, attention_dropout=0.5), **RECIPES["sft"])
    learner.policy.module.train()
    refused(learner, r"^model: two passes of the learner over the same \d+ numbers differ by up to \d.*, above 0\.0001 \(float32\)")


def test_another_head_than_the_models_own_stops_the_run(model: Path):
    learner = make(model, **RECIPES["sft"])
    learner.policy._form = learner.policy._form._replace(scale=0.5)
    refused(
        learner, r"^model: the learner's log-probs differ from those of the model's own forward by up to .*passes of the learner by 0\.00"
    )


def reads_the_whole_row(module, args, states):
    return states + states.mean(1, keepdim=True)


@pytest.mark.parametrize(("algorithm", "numbers"), [("grpo", "log-probs"), ("reward_model", "rewards")])
def test_a_model_that_reads_padding_stops_the_run(model: Path, algorithm: str, numbers: str):
    learner = make(model, **RECIPES[algorithm])
    learner.policy.module.get_input_embeddings().register_forward_hook(reads_the_whole_row)
    refused(learner, rf"^model: the learner's {numbers} differ .*(Qwen2|Llama)\w+ reads padding or the other rows of a batch")


def test_a_reference_is_checked_like_the_policy(model: Path, tmp_path: Path):
    teacher = tiny_model(tmp_path, seed=3)
    learner = make(model, regularizers={"kl": {"coefficient": 0.1, "reference": {"name": "teacher", "path": str(teacher)}}})
    other = learner.references["kl"].model
    other._form = other._form._replace(scale=0.5)
    refused(learner, r"^regularizers\.kl\.reference: the learner's log-probs differ")


def test_the_policy_is_checked_once(model: Path, monkeypatch):
    counts = []
    check = agreement.Agreement.stop_unless_the_models_own
    monkeypatch.setattr(agreement.Agreement, "stop_unless_the_models_own", lambda self: counts.append(check(self)))
    learner = make(model)
    for seed in range(2):
        learner.update(batch(learner, seed), seed)
    learner.exact_kl(pack(groups(), None))
    assert len(counts) == 1


def test_an_exported_model_that_is_another_stops_the_run(model: Path, tmp_path: Path):
    learner = make(model)
    learner.update(batch(learner), 0)
    export = learner.policy.export

    def forgetful(folder: str) -> None:
        export(folder)
        saved = AutoModelForCausalLM.from_pretrained(folder)
        saved.model.norm.weight.data *= 0.5
        saved.save_pretrained(folder)

    learner.policy.export = forgetful
    with pytest.raises(
        UserError, match=rf"^{tmp_path}: the log-probs of the exported model differ from the learner's by up to \d.*two passes"
    ):
        learner.export(str(tmp_path))


def test_a_gap_is_the_largest_and_infinite_for_nan():
    a, b = torch.tensor([0.0, -1.0]), torch.tensor([0.5, -1.25])
    assert largest_gap(a, b) == 0.5 and largest_gap(a, torch.tensor([0.0, float("nan")])) == float("inf")
