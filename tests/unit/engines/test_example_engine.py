"""The engine of the examples keeps the contract."""

from pathlib import Path

from helpers.models import tiny_model
from helpers.paths import ROOT

from align.testing.engines import check_engine

FILE = ROOT / "examples" / "custom_engine" / "my_engine.py"


def test_the_example_passes_its_kit(tmp_path: Path):
    findings = check_engine(f"{FILE}:MyEngine", model_dir=tiny_model(tmp_path, num_hidden_layers=1))
    assert [f.name for f in findings if not f.passed] == [] and len(findings) > 8
