"""The state of a learner on disk: bit for bit, and as data that runs no code."""

import json
import math
import pickle
from pathlib import Path

import pytest
import torch

from align.errors import UserError
from align.learner import tensor_files


def test_every_value_comes_back_bit_for_bit(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tensor_files, "FILE_BYTES", 64)
    base = torch.randn(6, 4)
    state = {
        "float32": base,
        "a view of it": base[2:4],
        "with gaps": base.t(),
        "expanded": torch.ones(1).expand(3),
        "bfloat16": torch.randn(5).bfloat16(),
        "bits of nan": torch.tensor([0x7FC00123, -1], dtype=torch.int32).view(torch.float32),
        "count": torch.tensor(7),
        "hash": torch.tensor([1, 255], dtype=torch.uint8),
        "empty": torch.zeros(0, 3),
        "other": {"number": 0.1, "infinite": math.inf, "none": None, "yes": True, "list": [1, "two", torch.tensor(3.0)], "": {}},
        "a/b": torch.tensor(1),
        "a": {"b": torch.tensor(2)},
    }
    tensor_files.save(tmp_path, state)
    assert len(list(tmp_path.iterdir())) > 3
    _same(tensor_files.load(tmp_path), state)


def _same(found, wanted):
    if isinstance(wanted, torch.Tensor):
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        assert found.contiguous().view(-1).view(torch.uint8).equal(wanted.contiguous().view(-1).view(torch.uint8))
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            _same(found[key], value)
    elif isinstance(wanted, list):
        for one, other in zip(found, wanted, strict=True):
            _same(one, other)
    else:
        assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize("value", [object(), {1: 2}, {1, 2}, print], ids=["object", "keys", "set", "function"])
def test_a_value_that_is_no_data_is_refused_with_its_place(value: object, tmp_path: Path):
    with pytest.raises(UserError, match=r"^references/kl/state: .* cannot be kept in a checkpoint"):
        tensor_files.save(tmp_path, {"references": {"kl": {"state": value}}})


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("file", ["state.json", "tensors_00000.safetensors"])
def test_a_pickle_in_its_place_does_not_run(file: str, tmp_path: Path):
    tensor_files.save(tmp_path, {"a": torch.ones(2)})
    torch.save(Payload(tmp_path / "ran"), tmp_path / file)
    with pytest.raises(UserError, match="is not a complete checkpoint"):
        tensor_files.load(tmp_path)
    (tmp_path / file).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(UserError, match="is not a complete checkpoint"):
        tensor_files.load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_plan_cannot_name_a_file_elsewhere(tmp_path: Path):
    tensor_files.save(tmp_path / "other", {"a": torch.ones(2)})
    tensor_files.save(tmp_path / "one", {})
    plan = json.loads((tmp_path / "one" / "state.json").read_text())
    (tmp_path / "one" / "state.json").write_text(
        json.dumps(plan | {"files": ["../other/tensors_00000.safetensors"], "state": {"tensor": "a"}})
    )
    with pytest.raises(UserError, match="is not a complete checkpoint"):
        tensor_files.load(tmp_path / "one")
