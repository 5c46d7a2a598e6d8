"""The kernels' own benchmark at published shapes, beside the hand-written kernel, plain torch and, where it is installed, Liger."""

from __future__ import annotations

import torch

from gpu_check.findings import Findings
from kernel_bench.jobs import JOBS
from kernel_bench.measure import measure
from kernel_bench.problem import Shape

WIDE, QWEN, SMALL = Shape(8192, 4096, 128256), Shape(8192, 4096, 151936), Shape(200, 16, 500)
MEASURED = {"cuda": {"reverse_kl": WIDE, "logp": WIDE, "jensen_shannon": WIDE, "logits": QWEN}, "cpu": {"logp": SMALL}}
ONLY = {"cuda": ("ours triton", "hand-written", "torch eager", "liger"), "cpu": ("ours torch", "torch eager")}
SHOWN = {"ms": "ms", "peak_mib": "MiB", "loss_error": "loss error", "hidden_error": "dX error", "weight_error": "dW error"}


def run(found: Findings, device: str) -> None:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    for job, shape in MEASURED[device].items():
        with found.case(job):
            result = measure([JOBS[job]], [shape], device=device, dtype=dtype, rounds=5, seconds=1.0, drift=0.03, only=ONLY[device])
            for row in result["rows"]:
                values = {label: row[key] for key, label in SHOWN.items() if row[key] is not None}
                found.put(f"{job} {shape} {row['provider']}", values or {"failed": row["failed"]})
