"""What each kernel may cost on a GPU, for every divergence of align's room: `budgets.json`, kept without a GPU.

`python tests/kernels/budgets.py` compares. It compiles ahead of time the kernels of SAMPLE, and of the others those whose source is not the
one of which the record was taken (`key`): equal source makes equal machine code. `--all` compiles every one (100 s); `--write` does too and
records what it finds (after a change that is worth its cost, or a new Triton), beside it what each formula costs as it is written.
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

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "kernels")]

from kernels.room import DIVERGENCES  # noqa: E402

from align_kernels.codegen import Fused, fused  # noqa: E402
from align_kernels.triton_rows.grad import row_grad_kernel  # noqa: E402
from align_kernels.triton_rows.launch import GRAD, ONE_PASS, STATS, SUM  # noqa: E402
from align_kernels.triton_rows.one_pass import one_pass_kernel  # noqa: E402
from align_kernels.triton_rows.stats import row_stats_kernel  # noqa: E402
from align_kernels.triton_rows.sums import row_sum_kernel  # noqa: E402
from kernel_bench.aot import Compilation, Resources, compilation, resources  # noqa: E402

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


def _compilation(kernel: Any, table: dict[int, dict[str, int]], rows: Rows, arch: int, absent: str = "", **constants: Any) -> Compilation:
    """`absent`: arguments that are None."""
    types = dict.fromkeys(["SUMS", "ENTROPY", "PULLS", "W_LOGP", "W_ENTROPY", "W_DIV"], "*fp32") | dict.fromkeys(
        ["LSE_P", "LSE_Q"], "*fp64"
    )
    types |= dict.fromkeys(["V", "stride", "stride_ref", "stride_out", "stride_grad", "first"], "i32")
    types |= dict.fromkeys(["scale", "ref_scale", "cap", "ref_cap", "power"], "fp32")
    types |= {
        "LOGITS": f"*{rows.logits}",
        "REF_LOGITS": f"*{rows.logits}",
        "GRAD": "*bf16",
        "STATS": "*fp64",
        "LABELS": "*i64",
        "numbers": (),
    }
    config = dict(table[BYTES[rows.logits]])
    warps = config.pop("num_warps")
    none = dict.fromkeys([*([] if rows.cap else ["cap", "ref_cap"]), *absent.split()])
    return compilation(kernel, types, config | {"ACC": tl.float32} | none | constants, arch=arch, num_warps=warps, aligned=rows.aligned)


def stats(rows: Rows, arch: int, absent: str = "") -> Compilation:
    return _compilation(row_stats_kernel, STATS, rows, arch, absent)


def sums(rows: Rows, arch: int, fn: Fused) -> Compilation:
    return _compilation(row_sum_kernel, SUM, rows, arch, TERMS=fn.triton().terms)


def one_pass(rows: Rows, arch: int, fn: Fused) -> Compilation:
    return _compilation(one_pass_kernel, ONE_PASS, rows, arch, TERM=fn.triton().term, TERMS=fn.triton().terms)


def grad(rows: Rows, arch: int, fn: Fused | None, absent: str = "") -> Compilation:
    return _compilation(row_grad_kernel, GRAD, rows, arch, absent, PULL=fn.triton().pull if fn else None, ADD=False)


class Entry(NamedTuple):
    name: str
    compilation: Compilation
    logits: float
    """How many a thread reads in one turn of the main loop."""
    loops: int | None
    """How many there are to read a row (None: all)."""

    def measured(self) -> Resources:
        return resources(self.compilation.compile(), self.logits, self.loops)


def _per_turn(table: dict[int, dict[str, int]], rows: Rows) -> float:
    config = table[BYTES[rows.logits]]
    return config.get("K", 1) * config["B"] / (32 * config["num_warps"])


def _of_a_divergence(label: str, rows: Rows, arch: int, fn: Fused, name: str = REPRESENTATIVE[0]) -> Iterator[Entry]:
    """One reading where there is one; the sum, which tensor parallelism takes instead, then for the representative `name` only."""
    if fn.power is not None:
        # The second loop is for the rare row that is read again.
        yield Entry(f"{label.replace('*', 'one pass')}", one_pass(rows, arch, fn), _per_turn(ONE_PASS, rows), 1)
    if fn.power is None or name in REPRESENTATIVE:
        yield Entry(f"{label.replace('*', 'sum')}", sums(rows, arch, fn), _per_turn(SUM, rows), None)
    yield Entry(f"{label.replace('*', 'grad log-prob entropy')}", grad(rows, arch, fn), _per_turn(GRAD, rows), None)


def kernels() -> Iterator[Entry]:
    for arch in ARCHITECTURES:
        for logits in BYTES:
            rows, name = Rows(logits), f"sm_{arch} {logits}"
            yield Entry(f"{name} stats", stats(rows, arch, "REF_LOGITS"), _per_turn(STATS, rows), None)
            yield Entry(f"{name} stats with reference", stats(rows, arch), _per_turn(STATS, rows), None)
            yield Entry(
                f"{name} grad log-prob",
                grad(rows, arch, None, "REF_LOGITS LSE_Q ENTROPY PULLS W_ENTROPY W_DIV"),
                _per_turn(GRAD, rows),
                None,
            )
            yield Entry(
                f"{name} grad log-prob entropy", grad(rows, arch, None, "REF_LOGITS LSE_Q PULLS W_DIV"), _per_turn(GRAD, rows), None
            )
        if arch != NEWEST:
            for name in REPRESENTATIVE:
                yield from _of_a_divergence(f"sm_{arch} fp32 * {name}", Rows(), arch, fused(DIVERGENCES[name]))
            continue
        for name, divergence in DIVERGENCES.items():
            yield from _of_a_divergence(f"sm_{arch} fp32 * {name}", Rows(), arch, fused(divergence), name)
        for name, f in ALONE.items():
            yield from _of_a_divergence(f"sm_{arch} fp32 * {name} from f alone", Rows(), arch, fused(f), name)
        for what, rows in {"soft cap": Rows(cap=True), "unaligned": Rows(aligned=False)}.items():
            yield Entry(f"sm_{arch} fp32 stats with reference, {what}", stats(rows, arch), _per_turn(STATS, rows), None)
            for name in REPRESENTATIVE:
                yield from _of_a_divergence(f"sm_{arch} fp32 * {name}, {what}", rows, arch, fused(DIVERGENCES[name]))


SAMPLE = ("sm_80 fp32 one pass reverse_kl", "sm_90 bf16 stats with reference", "sm_90 fp32 grad log-prob entropy jensen_shannon")
"""Compiled in each comparison: the record is of this compiler. One for each pass and architecture, and for both kinds of divergences."""


def measured(budgets: dict[str, dict[str, Any]]) -> dict[str, Resources]:
    """Of every kernel, compiled where `budgets` does not hold what its source costs."""
    found = {}
    for entry in kernels():
        record = budgets.get(entry.name, {})
        known = record.get("key") == entry.compilation.key() and entry.name not in SAMPLE
        found[entry.name] = Resources(int(record["registers"]), 0, record["instructions"]) if known else entry.measured()
    return found


def excesses(found: dict[str, Resources], budgets: dict[str, dict[str, Any]]) -> list[str]:
    """What spills, costs more than its budget, or has none."""
    wrong = [f"{name}: {now.spilled} bytes spilled" for name, now in found.items() if now.spilled]
    for name, now in found.items():
        for what in ("registers", "instructions"):
            budget = budgets.get(name, {}).get(what, 0)
            if getattr(now, what) > budget * SLACK:
                wrong.append(f"{name}: {what} {getattr(now, what)}, budget {budget}")
    return wrong + [f"{name}: no such kernel any more" for name in budgets.keys() - found.keys()]


def _as_written() -> dict[str, float]:
    """The instructions with each formula left as it is written."""
    environment = os.environ | {"ALIGN_KERNELS_REWRITE": "0"}
    done = subprocess.run([sys.executable, __file__, "--print"], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def write() -> None:
    plain = _as_written()
    records = {}
    for entry in kernels():
        now = entry.measured()
        assert not now.spilled, f"{entry.name} spills {now.spilled} bytes: no budget allows that"
        records[entry.name] = {
            "registers": now.registers,
            "instructions": now.instructions,
            "as_written": plain[entry.name],
            "key": entry.compilation.key(),
        }
    FILE.write_text("{\n" + ",\n".join(f'  "{name}": {json.dumps(record)}' for name, record in records.items()) + "\n}\n")


def main() -> int:
    if "--print" in sys.argv:
        print(json.dumps({name: r.instructions for name, r in measured({}).items()}))
        return 0
    if "--write" in sys.argv:
        write()
        return 0
    budgets = json.loads(FILE.read_text())
    found = measured({} if "--all" in sys.argv else budgets)
    wrong = excesses(found, budgets)
    print("\n".join(wrong) or f"{len(found)} kernels within their budgets")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
