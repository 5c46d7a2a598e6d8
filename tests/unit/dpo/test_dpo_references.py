"""References of DPO: TR-DPO, and log-probs that are computed once and kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import tiny_model
from unit.dpo.pairs import LORA, batch, make, pairs

from align.errors import RecipeError
from align.experience.packing import pack
from align.learner.learner import Learner
from align.types import Episode, Group, Prompt


def test_tr_dpo_reset_at_each_step_stays_at_log_two(model: Path):
    """methods.md row 36; against a frozen reference (row 37) it does not."""
    losses = {}
    for name, reference in {
        "hard_reset": {"name": "hard_reset", "every": 1},
        "frozen": {"name": "frozen"},
        "ema": {"name": "ema", "rate": 0.5},
    }.items():
        learner = make(model, link={"reference": reference}, algorithm={"name": "dpo", "minibatches": 2})
        for step in range(3):
            learner.update(batch(learner, step), step)
        learner.optimizer.step = lambda: None
        losses[name] = learner.update(batch(learner, 0), 3)["loss/policy"].mean
    assert losses["hard_reset"] == pytest.approx(np.log(2), abs=1e-6)
    assert abs(losses["frozen"] - np.log(2)) > abs(losses["ema"] - np.log(2)) > 1e-3


def precomputed(folder: Path, lora: dict | None = None) -> Learner:
    return make(folder, link={"reference": "precomputed"}, model={"path": str(folder), "lora": lora or {}})


@pytest.mark.parametrize("lora", [{}, LORA], ids=["whole", "lora"])
def test_precomputed_is_frozen_asked_once(model: Path, cache: Path, lora: dict):
    frozen, known = make(model, model={"path": str(model), "lora": lora}), precomputed(model, lora)
    computed = [known.precompute(pack(pairs(seed), None)) for seed in range(3)]
    known.precompute(None)
    assert computed == [8, 8, 8] and len(list((cache / "reference_logp").iterdir())) == 3
    for step in range(3):
        one, two = batch(frozen, step), batch(known, step)
        torch.testing.assert_close(two.ref_logp["kl"], one.ref_logp["kl"], rtol=0, atol=1e-6)
        a, b = frozen.update(one, step), known.update(two, step)
        assert b["loss/policy"].mean == pytest.approx(a["loss/policy"].mean, abs=1e-6)
        assert b["divergence/kl"].mean == pytest.approx(a["divergence/kl"].mean, rel=1e-4, abs=1e-5)
    assert known.references["kl"]._initial is None, "the model was let go of, and is not loaded again"


STORES = """
from align.references import RunningReference
from align.references.precomputed import Precomputed

class Stores(Precomputed):
    def start(self, policy):
        return Stored(policy)

class Stored(RunningReference):
    def parameters(self):
        return self.policy.initial().parameters()

    def prepare(self, batch, temperature, logp):
        return False
"""


def test_a_reference_that_precomputes_under_the_old_name_is_refused_with_the_new_one(model: Path, tmp_path: Path):
    (tmp_path / "stores.py").write_text(STORES)
    with pytest.raises(
        RecipeError, match=r"kl\.reference: .*stores.py:13: `prepare` is called `precompute\(self, batch, temperature, logp\)`"
    ):
        make(model, link={"reference": f"{tmp_path}/stores.py:Stores"})


def test_the_cache_is_used_again_and_told_apart_by_model_data_and_temperature(model: Path, cache: Path, tmp_path: Path):
    def files() -> int:
        return len(list((cache / "reference_logp").glob("*.safetensors")))

    assert precomputed(model).precompute(pack(pairs(), None)) == 8 and files() == 1
    again = precomputed(model)
    assert again.precompute(pack(pairs(), None)) == 0 and files() == 1
    assert again.references["kl"]._initial is None, "no model is loaded where all is known"
    assert precomputed(model, LORA).precompute(pack(pairs(), None)) == 8, "its hash is of what the adapter leaves alone"
    assert precomputed(model).precompute(pack(pairs(1), None)) == 8
    assert precomputed(tiny_model(tmp_path / "other", tied=False, seed=1)).precompute(pack(pairs(), None)) == 8
    warm = make(model, link={"reference": "precomputed"}, sampling={"max_tokens": 8, "temperature": 1.0})
    assert warm.precompute(pack(pairs(), None)) == 8
    # The prompt is part of the content, and where the answer begins in the same tokens.
    first = pairs()[0]
    ids = (*first.prompt.token_ids, *first.episodes[0].trained_ids.tolist())
    shifted = [
        Group(prompt=Prompt(id="0", text="", token_ids=ids[:n]), episodes=(Episode.single_turn(np.array(ids[n:], dtype=np.int32), ""),))
        for n in (1, 2)
    ]
    known = precomputed(model)
    assert [known.precompute(pack([g], None)) for g in shifted] == [1, 1]
    assert known.references["kl"].known(pack(shifted, None)).shape == (2 * len(ids) - 3,)
    assert known.references["kl"].known(pack(pairs(7), None)) is None


def test_a_precomputed_reference_is_the_initial_policy_after_a_restart(model: Path, tmp_path: Path):
    one = precomputed(model)
    one.precompute(pack(pairs(), None))
    one.update(batch(one), 0)
    one.save(str(tmp_path / "checkpoint"))
    other = precomputed(model)
    assert other.precompute(pack(pairs(), None)) == 0
    other.load(str(tmp_path / "checkpoint"))
    assert torch.equal(batch(one).ref_logp["kl"], batch(other).ref_logp["kl"])
    assert one.update(batch(one), 1) == other.update(batch(other), 1)
