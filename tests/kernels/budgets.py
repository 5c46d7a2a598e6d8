"""What each kernel may cost on a GPU, for every divergence of align's room: `budgets.json`, kept without a GPU.

`python tests/kernels/budgets.py` compiles all of them ahead of time and compares; with `--write` it records what it finds (after a change
that is worth its cost, or a new Triton).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton.language as tl
from triton.compiler import CompiledKernel

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "kernels")]

from kernels.room import DIVERGENCES  # noqa: E402

from align_kernels.aot import Resources, compile_kernel, resources  # noqa: E402
from align_kernels.codegen import Fused, fused  # noqa: E402
from align_kernels.triton_rows.grad import row_grad_kernel  # noqa: E402
from align_kernels.triton_rows.launch import GRAD, ONE_PASS, STATS, SUM  # noqa: E402
from align_kernels.triton_rows.one_pass import one_pass_kernel  # noqa: E402
from align_kernels.triton_rows.stats import row_stats_kernel  # noqa: E402
from align_kernels.triton_rows.sums import row_sum_kernel  # noqa: E402

FILE = Path(__file__).parent / "budgets.json"
ARCHITECTURES = (80, 90)
BYTES = {"fp32": 4, "bf16": 2}
SLACK = 1.02


def _compiled(kernel: Any, config: dict[str, int], logits: str, arch: int, absent: str = "", **constants: Any) -> CompiledKernel:
    """`absent`: arguments that are None."""
    types = dict.fromkeys(["OUT", "H", "S", "W_LOGP", "W_ENTROPY", "W_DIV"], "*fp32") | dict.fromkeys(["LSE_P", "LSE_Q"], "*fp64")
    types |= {} if kernel is row_sum_kernel else {"OUT": "*fp64"}
    types |= dict.fromkeys(["V", "stride_z", "stride_u", "stride_out", "stride_g", "first"], "i32")
    types |= {"Z": f"*{logits}", "U": f"*{logits}", "G": "*bf16", "LABELS": "*i64", "scale_z": "fp32", "scale_u": "fp32", "power": "fp32",
              "params": ()}
    config = dict(config)
    warps = config.pop("num_warps")
    none = dict.fromkeys(["cap_z", "cap_u", *absent.split()])
    return compile_kernel(kernel, types, config | {"ACC": tl.float32} | none | constants, arch=arch, num_warps=warps)


def stats(logits: str, arch: int, absent: str = "") -> CompiledKernel:
    return _compiled(row_stats_kernel, STATS[BYTES[logits]], logits, arch, absent)


def sums(logits: str, arch: int, fn: Fused) -> CompiledKernel:
    return _compiled(row_sum_kernel, SUM[BYTES[logits]], logits, arch, TERMS=fn.triton().terms)


def one_pass(logits: str, arch: int, fn: Fused) -> CompiledKernel:
    return _compiled(one_pass_kernel, ONE_PASS[BYTES[logits]], logits, arch, TERM=fn.triton().term, TERMS=fn.triton().terms)


def grad(logits: str, arch: int, fn: Fused | None, absent: str = "") -> CompiledKernel:
    return _compiled(row_grad_kernel, GRAD[BYTES[logits]], logits, arch, absent, PULL=fn.triton().pull if fn else None, ADD=False)


def kernels() -> Iterator[tuple[str, CompiledKernel, float, int | None]]:
    """Name, machine code, logits a thread reads in one turn of the main loop, and how many loops there are to read a row (None: all)."""
    per_turn = {name: {s: c.get("K", 1) * c["B"] / (32 * c["num_warps"]) for s, c in table.items()}
                for name, table in (("stats", STATS), ("sum", SUM), ("grad", GRAD), ("one pass", ONE_PASS))}
    for arch in ARCHITECTURES:
        for logits, size in BYTES.items():
            yield f"sm_{arch} {logits} stats", stats(logits, arch, "U"), per_turn["stats"][size], None
            yield f"sm_{arch} {logits} stats with reference", stats(logits, arch), per_turn["stats"][size], None
            yield f"sm_{arch} {logits} grad log-prob", grad(logits, arch, None, "U LSE_Q H S W_ENTROPY W_DIV"), per_turn["grad"][size], None
            yield f"sm_{arch} {logits} grad log-prob entropy", grad(logits, arch, None, "U LSE_Q S W_DIV"), per_turn["grad"][size], None
        for name, divergence in DIVERGENCES.items():
            fn = fused(divergence)
            yield f"sm_{arch} fp32 sum {name}", sums("fp32", arch, fn), per_turn["sum"][4], None
            yield f"sm_{arch} fp32 grad log-prob entropy {name}", grad("fp32", arch, fn), per_turn["grad"][4], None
            if fn.power is not None:
                # The second loop is for the rare row that is read again.
                yield f"sm_{arch} fp32 one pass {name}", one_pass("fp32", arch, fn), per_turn["one pass"][4], 1


def measured() -> dict[str, Resources]:
    return {name: resources(compiled, logits, loops) for name, compiled, logits, loops in kernels()}


def excesses(found: dict[str, Resources], budgets: dict[str, dict[str, float]]) -> list[str]:
    """What spills, costs more than its budget, or has none."""
    wrong = [f"{name}: {now.spilled} bytes spilled" for name, now in found.items() if now.spilled]
    for name, now in found.items():
        for what in ("registers", "instructions"):
            budget = budgets.get(name, {}).get(what, 0)
            if getattr(now, what) > budget * SLACK:
                wrong.append(f"{name}: {what} {getattr(now, what)}, budget {budget}")
    return wrong + [f"{name}: no such kernel any more" for name in budgets.keys() - found.keys()]


def main() -> int:
    found = measured()
    if "--write" in sys.argv:
        rows = ",\n".join(f'  "{n}": {{"registers": {r.registers}, "instructions": {r.instructions}}}' for n, r in found.items())
        FILE.write_text(f"{{\n{rows}\n}}\n")
        return 0
    wrong = excesses(found, json.loads(FILE.read_text()))
    print("\n".join(wrong) or f"{len(found)} kernels within their budgets")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
