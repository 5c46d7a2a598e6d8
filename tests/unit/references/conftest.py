"""The models that the tests of references share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.models import tiny_model
from unit.references.learners import batch, make


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`initial`, `second` and `third` of one architecture, heads untied; `adapter`, trained on `initial` with rank 4 and alpha 32."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("initial", "second", "third")):
        tiny_model(root / name, tied=False, seed=seed)
    trained = make(root, "frozen", lora=4)
    for step in range(2):
        trained.update(batch(trained, step), step)
    trained.export(str(root / "run"))
    shutil.copytree(root / "run" / "adapter", root / "adapter")
    return root
