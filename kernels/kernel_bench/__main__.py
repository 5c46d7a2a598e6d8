"""`python -m kernel_bench`: measures with torch alone, writes results.json and, where matplotlib is installed, bench.png beside it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from kernel_bench.jobs import JOBS
from kernel_bench.measure import measure
from kernel_bench.problem import LARGE, SMALL, Shape
from kernel_bench.report import markdown


def shape(text: str) -> Shape:
    return Shape(*(int(n) for n in text.split("x")))


def results(file: str) -> dict[str, Any]:
    """A measurement made elsewhere."""
    try:
        found = json.loads(Path(file).read_text())
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{file} is no measurement that this program wrote: {error}") from error
    if not isinstance(found, dict) or "rows" not in found:
        raise argparse.ArgumentTypeError(f"{file} is no measurement that this program wrote: it has no rows")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="python -m kernel_bench", description=__doc__, epilog="Example: python -m kernel_bench --jobs logp reverse_kl --seconds 5"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench-kernels"), help="Folder.  [default: runs/bench-kernels]")
    parser.add_argument("--shapes", type=shape, nargs="+", default=LARGE if on_gpu else SMALL, metavar="TxHxV")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS, metavar="JOB", help=f"of: {', '.join(JOBS)}.")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="Providers whose name holds one of these.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=20.0, help="For each job and shape, after the first calls.")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--drift", type=float, default=0.03, help="How far the reference's hidden states are off.")
    parser.add_argument("--read", type=results, metavar="FILE", help="Print and draw a results.json made elsewhere; measure nothing.")
    given = parser.parse_args(arguments)
    result = given.read or measure(
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
    given.out.mkdir(parents=True, exist_ok=True)
    if given.read is None:
        (given.out / "results.json").write_text(json.dumps(result, indent=1))
    print(markdown(result))
    if find_spec("matplotlib"):
        from kernel_bench.plot import plot  # noqa: PLC0415 - optional

        plot(result, given.out / "bench.png")
    print(f"\nwritten to {given.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
