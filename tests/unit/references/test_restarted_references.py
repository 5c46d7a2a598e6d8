"""What a restart keeps of a reference, and by what it tells that one is no longer the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from unit.references.learners import WITH_STATES, batch, hf, make, reference_logp

from align.errors import UserError


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("name", WITH_STATES)
def test_a_restart_keeps_the_reference_bit_for_bit(folder: Path, tmp_path: Path, name: str, lora: int):
    one = make(folder, name, lora=lora)
    for step in range(3):
        one.update(batch(one, step), step)
    one.save(str(tmp_path / "checkpoint"))
    other = make(folder, name, lora=lora)
    other.load(str(tmp_path / "checkpoint"))
    assert other.reference_info() == one.reference_info()
    assert other.references["kl"].version == {"ema": 3, "hard_reset": 1, "behaviour": 3, "window": 6, "disturbed": 3}.get(name, 0)
    for step in (3, 4):
        a, b = batch(one, step), batch(other, step)
        assert torch.equal(reference_logp(one, a), reference_logp(other, b))
        assert one.update(a, step) == other.update(b, step)
    assert other.reference_info() == one.reference_info()


def test_a_reference_that_is_no_longer_the_same_is_refused(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "second", tmp_path / "teacher")
    node = {"name": "teacher", "path": str(tmp_path / "teacher")}
    make(folder, node).save(str(tmp_path / "checkpoint"))
    make(folder, node).load(str(tmp_path / "checkpoint"))
    changed = hf(folder, "second")
    with torch.no_grad():
        changed.lm_head.weight[3, 4] += 1e-6
    changed.save_pretrained(tmp_path / "teacher")
    with pytest.raises(UserError, match=r"the reference of regularizers\.kl \(teacher\(.* is not the one the run was started with"):
        make(folder, node).load(str(tmp_path / "checkpoint"))


def test_the_hash_is_of_the_parameters_alone(folder: Path):
    learner = make(folder, "frozen")
    frozen, policy = learner.references["kl"], learner.policy
    start = frozen.content_hash()
    assert len(bytes.fromhex(start)) == 8
    assert start == make(folder, "hard_reset").references["kl"].content_hash() == policy.content_hash()
    assert start == policy.content_hash(dict(reversed(list(frozen.parameters().items())))), "whatever their order"
    learner.update(batch(learner), 0)
    assert frozen.content_hash() == start != policy.content_hash()
    with_lora = make(folder, "frozen", lora=4)
    base = with_lora.references["kl"].content_hash()
    with_lora.update(batch(with_lora), 0)
    assert with_lora.references["kl"].content_hash() == base
