"""What each kernel may cost on a GPU, for every divergence of align's room: `budgets.json`, kept without a GPU.

`python tests/kernels/budgets.py` compiles all of them ahead of time and compares; with `--write` it records what it finds (after a change
that is worth its cost, or a new Triton), beside it what the same kernels cost with each formula left as it is written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import triton.language as tl
from triton.compiler import CompiledKernel

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "kernels")]

from kernels.room import DIVERGENCES  # noqa: E402

from align_kernels.codegen import Fused, fused  # noqa: E402
from align_kernels.triton_rows.grad import row_grad_kernel  # noqa: E402
from align_kernels.triton_rows.launch import GRAD, ONE_PASS, STATS, SUM  # noqa: E402
from align_kernels.triton_rows.one_pass import one_pass_kernel  # noqa: E402
from align_kernels.triton_rows.stats import row_stats_kernel  # noqa: E402
from align_kernels.triton_rows.sums import row_sum_kernel  # noqa: E402
from kernel_bench.aot import Resources, compile_kernel, resources  # noqa: E402

FILE = Path(__file__).parent / "budgets.json"
NEWEST = 90
ARCHITECTURES = (80, NEWEST)
"""Instructions of both agree to 3 %, so the older one has two divergences in place of all."""
BYTES = {"fp32": 4, "bf16": 2}
SLACK = 1.02
ALONE = {name: DIVERGENCES[name].f for name in ("reverse_kl", "jensen_shannon", "tsallis")}
"""As a user gives them, by f alone: its closed forms are traced and not given."""
REPRESENTATIVE = ("reverse_kl", "jensen_shannon")
"""Of the alpha family and of the others, with a soft cap and with rows that begin anywhere."""
MEMORY = 68
"""Instructions that an H100 issues in a lane while memory brings two float32 logits: below that a divergence is free."""
OVER = {
    "jensen_shannon from f alone": "a logarithm of a sum with its derivative, and a polynomial near log u = 0; the closed forms have 47",
    "soft cap": "tanh of both logits, in each pass, by an exponential and a division",
}
"""What costs more than MEMORY by the end of its name, and why."""


class Rows(NamedTuple):
    """What the logits are."""

    logits: str = "fp32"
    aligned: bool = True
    cap: bool = False


def _compiled(kernel: Any, table: dict[int, dict[str, int]], rows: Rows, arch: int, absent: str = "", **constants: Any) -> CompiledKernel:
    """`absent`: arguments that are None."""
    types = dict.fromkeys(["OUT", "H", "S", "W_LOGP", "W_ENTROPY", "W_DIV"], "*fp32") | dict.fromkeys(["LSE_P", "LSE_Q"], "*fp64")
    types |= {} if kernel is row_sum_kernel else {"OUT": "*fp64"}
    types |= dict.fromkeys(["V", "stride_z", "stride_u", "stride_out", "stride_g", "first"], "i32")
    types |= dict.fromkeys(["scale_z", "scale_u", "cap_z", "cap_u", "power"], "fp32")
    types |= {"Z": f"*{rows.logits}", "U": f"*{rows.logits}", "G": "*bf16", "LABELS": "*i64", "numbers": ()}
    config = dict(table[BYTES[rows.logits]])
    warps = config.pop("num_warps")
    none = dict.fromkeys([*([] if rows.cap else ["cap_z", "cap_u"]), *absent.split()])
    return compile_kernel(kernel, types, config | {"ACC": tl.float32} | none | constants, arch=arch, num_warps=warps, aligned=rows.aligned)


def stats(rows: Rows, arch: int, absent: str = "") -> CompiledKernel:
    return _compiled(row_stats_kernel, STATS, rows, arch, absent)


def sums(rows: Rows, arch: int, fn: Fused) -> CompiledKernel:
    return _compiled(row_sum_kernel, SUM, rows, arch, TERMS=fn.triton().terms)


def one_pass(rows: Rows, arch: int, fn: Fused) -> CompiledKernel:
    return _compiled(one_pass_kernel, ONE_PASS, rows, arch, TERM=fn.triton().term, TERMS=fn.triton().terms)


def grad(rows: Rows, arch: int, fn: Fused | None, absent: str = "") -> CompiledKernel:
    return _compiled(row_grad_kernel, GRAD, rows, arch, absent, PULL=fn.triton().pull if fn else None, ADD=False)


Entry = tuple[str, CompiledKernel, float, int | None]
"""Name, machine code, logits a thread reads in one turn of the main loop, and how many loops there are to read a row (None: all)."""


def _per_turn(table: dict[int, dict[str, int]], rows: Rows) -> float:
    config = table[BYTES[rows.logits]]
    return config.get("K", 1) * config["B"] / (32 * config["num_warps"])


def _of_a_divergence(label: str, rows: Rows, arch: int, fn: Fused, name: str = REPRESENTATIVE[0]) -> Iterator[Entry]:
    """One reading where there is one; the sum, which tensor parallelism takes instead, then for the representative `name` only."""
    if fn.power is not None:
        # The second loop is for the rare row that is read again.
        yield f"{label.replace('*', 'one pass')}", one_pass(rows, arch, fn), _per_turn(ONE_PASS, rows), 1
    if fn.power is None or name in REPRESENTATIVE:
        yield f"{label.replace('*', 'sum')}", sums(rows, arch, fn), _per_turn(SUM, rows), None
    yield f"{label.replace('*', 'grad log-prob entropy')}", grad(rows, arch, fn), _per_turn(GRAD, rows), None


def kernels() -> Iterator[Entry]:
    for arch in ARCHITECTURES:
        for logits in BYTES:
            rows, name = Rows(logits), f"sm_{arch} {logits}"
            yield f"{name} stats", stats(rows, arch, "U"), _per_turn(STATS, rows), None
            yield f"{name} stats with reference", stats(rows, arch), _per_turn(STATS, rows), None
            yield f"{name} grad log-prob", grad(rows, arch, None, "U LSE_Q H S W_ENTROPY W_DIV"), _per_turn(GRAD, rows), None
            yield f"{name} grad log-prob entropy", grad(rows, arch, None, "U LSE_Q S W_DIV"), _per_turn(GRAD, rows), None
        if arch != NEWEST:
            for name in REPRESENTATIVE:
                yield from _of_a_divergence(f"sm_{arch} fp32 * {name}", Rows(), arch, fused(DIVERGENCES[name]))
            continue
        for name, divergence in DIVERGENCES.items():
            yield from _of_a_divergence(f"sm_{arch} fp32 * {name}", Rows(), arch, fused(divergence), name)
        for name, f in ALONE.items():
            yield from _of_a_divergence(f"sm_{arch} fp32 * {name} from f alone", Rows(), arch, fused(f), name)
        for what, rows in {"soft cap": Rows(cap=True), "unaligned": Rows(aligned=False)}.items():
            yield f"sm_{arch} fp32 stats with reference, {what}", stats(rows, arch), _per_turn(STATS, rows), None
            for name in REPRESENTATIVE:
                yield from _of_a_divergence(f"sm_{arch} fp32 * {name}, {what}", rows, arch, fused(DIVERGENCES[name]))


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


def _plain() -> dict[str, float]:
    """The instructions with each formula left as it is written."""
    environment = os.environ | {"ALIGN_KERNELS_REWRITE": "0"}
    done = subprocess.run([sys.executable, __file__, "--print"], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> int:
    found = measured()
    if "--print" in sys.argv:
        print(json.dumps({name: r.instructions for name, r in found.items()}))
        return 0
    if "--write" in sys.argv:
        plain = _plain()
        lines = [
            f'  "{n}": {{"registers": {r.registers}, "instructions": {r.instructions}, "as_written": {plain[n]}}}' for n, r in found.items()
        ]
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return 0
    wrong = excesses(found, json.loads(FILE.read_text()))
    print("\n".join(wrong) or f"{len(found)} kernels within their budgets")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
