"""The products that the probe times are those of the head."""

from __future__ import annotations

from pathlib import Path

from gpu_check.findings import Findings
from gpu_check.stages import probe


def test_the_products_run(tmp_path: Path):
    found = Findings(tmp_path, "probe")
    probe.gemm(found, "cpu", 8)
    probe.head_products(found, "cpu", columns=9, tokens=4, width=8)
    assert found.found["GEMM TFLOP/s"].keys() == {"bf16", "to fp32", "added to fp32"}
    assert found.found["added to fp32: largest error over largest element"] < 1e-2
    assert found.found["9 columns, TFLOP/s"].keys() == {"logits", "d hidden", "d weight"}
