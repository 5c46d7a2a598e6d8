"""The first minutes with a GPU: the machine, the kernels, one update of a 1.5B model, a training run beside the CPU's.

Stops itself after --limit seconds. Needs torch >= 2.11, triton, transformers, peft and pytest; stages that need more say so.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from gpu_check.plan import LIMIT, STAGES
from gpu_check.runner import DEVICES, run, succeeded
from gpu_check.table import table

EXAMPLE = """example:
  make gpu-check                            all of it, on a GPU
  make gpu-check DEVICE=cpu                 rehearse all of it on small shapes
  make gpu-check ARGS="--only probe head --limit 120"

stages:
""" + "\n".join(f"  {stage.name:<10} {stage.limit:3.0f} s  {stage.about}" for stage in STAGES)


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make gpu-check", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=DEVICES, default="cuda", help="cpu rehearses the check on small shapes")
    parser.add_argument("--only", nargs="+", choices=[stage.name for stage in STAGES], metavar="STAGE", help="run these stages alone")
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS", help="for all stages together (default %(default)g)")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check"), help="folder for results.json and logs (default %(default)s)")
    return parser.parse_args(arguments)


def has_gpu() -> bool:
    import torch  # takes seconds, and --help needs none of it

    return torch.cuda.is_available()


def main() -> int:
    given = parsed(sys.argv[1:])
    if given.device == "cuda" and not has_gpu():
        print("gpu-check: torch sees no GPU here; DEVICE=cpu rehearses the check on small shapes", file=sys.stderr)
        return 2
    # A stage has a process group of its own: SIGTERM must reach the code that ends it, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stages = [stage for stage in STAGES if not given.only or stage.name in given.only]
    results = run(stages, given.device, given.out, given.limit, lambda text: print(text, file=sys.stderr, flush=True))
    print(table(results))
    print(f"\nwritten to {given.out / 'results.json'}", file=sys.stderr)
    return 0 if succeeded(results) else 1


if __name__ == "__main__":
    sys.exit(main())
