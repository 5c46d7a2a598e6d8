"""`python -m align_kernels.bench`: measures with torch alone, and writes JSON that `align bench kernels --read` draws."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from align_kernels.bench.jobs import JOBS
from align_kernels.bench.measure import measure
from align_kernels.bench.problem import LARGE, SMALL, Shape
from align_kernels.bench.report import markdown


def shape(text: str) -> Shape:
    return Shape(*(int(n) for n in text.split("x")))


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m align_kernels.bench", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-kernels/results.json"))
    parser.add_argument("--shapes", type=shape, nargs="+", default=LARGE if on_gpu else SMALL, metavar="TxHxV")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS, metavar="JOB", help=f"of: {', '.join(JOBS)}.")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="Providers whose name holds one of these.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=20.0, help="For each job and shape, after the first calls.")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--drift", type=float, default=0.03, help="How far the reference's hidden states are off.")
    given = parser.parse_args()
    result = measure(
        [JOBS[name] for name in given.jobs],
        given.shapes,
        device="cuda" if on_gpu else "cpu",
        dtype=getattr(torch, given.dtype),
        rounds=given.rounds,
        seconds=given.seconds,
        drift=given.drift,
        only=given.only,
        tell=lambda text: print(text, file=sys.stderr, flush=True),
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1))
    print(markdown(result))
    print(f"\nwritten to {given.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
