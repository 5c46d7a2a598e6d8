"""Log-probs of a precomputing reference on disk: read as they were written, and computed again where they are damaged."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from align.references import precomputed


def test_they_come_back_bit_for_bit(tmp_path: Path):
    logp = torch.randn(9)
    precomputed._write(tmp_path / "a" / "x.safetensors", logp)
    assert torch.equal(precomputed._read(tmp_path / "a" / "x.safetensors", 9), logp)
    assert [f.name for f in (tmp_path / "a").iterdir()] == ["x.safetensors"]
    assert precomputed._read(tmp_path / "nothing", 9) is None


@pytest.mark.parametrize("kind", ["cut short", "empty", "a bit", "other tokens", "without a hash"])
def test_damaged_ones_are_not_used(kind: str, tmp_path: Path):
    file = tmp_path / "x.safetensors"
    precomputed._write(file, torch.randn(9))
    data = bytearray(file.read_bytes())
    if kind == "cut short":
        file.write_bytes(data[:-3])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "a bit":
        data[-2] ^= 1
        file.write_bytes(data)
    elif kind == "without a hash":
        save_file({"logp": torch.randn(9)}, file)
    assert precomputed._read(file, 8 if kind == "other tokens" else 9) is None
