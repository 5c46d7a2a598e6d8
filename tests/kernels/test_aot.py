"""What the kernels become on a GPU, without one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kernels.budgets import FILE, MEMORY, OVER, excesses

from kernel_bench.aot import Resources

HERE = Path(__file__).parent
# In a process that has the interpreter on, there is nothing to compile.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"OMP_NUM_THREADS": "1"}

PROGRAM = f"""
import contextlib, io, json, sys
sys.path.insert(0, {str(HERE)!r})
import budgets
from kernel_bench.aot import compilation, resources
from kernel_bench import hand_written as by_hand
from kernels.operations import EVERY_ONE

with contextlib.redirect_stdout(io.StringIO()) as said:
    budgets.main()
fn, known, rows = budgets.fused(EVERY_ONE), budgets.fused(budgets.DIVERGENCES["pearson"]), budgets.Rows()
found = dict(stats=budgets.stats(budgets.Rows("bf16"), 90), sum=budgets.sums(rows, 90, fn), grad=budgets.grad(rows, 90, known))
found = dict((name, given.compile()) for name, given in found.items())
spent = dict()
types = dict.fromkeys(["LOGITS", "REF_LOGITS", "STATS", "DIV", "W_DIV"], "*fp32") | dict.fromkeys(["LSE_P", "LSE_Q"], "*fp64")
types |= dict.fromkeys(["V", "stride", "stride_ref", "stride_out", "stride_grad", "first"], "i32")
types |= dict(scale="fp32", ref_scale="fp32", GRAD="*bf16", LABELS="*i64")
for kernel, config in ((by_hand.forward, by_hand.FORWARD), (by_hand.backward, by_hand.BACKWARD)):
    config = dict(config)
    warps = config.pop("num_warps")
    name = "by hand, " + kernel.__name__
    found[name] = compilation(kernel, types, config, arch=90, num_warps=warps).compile()
    spent[name] = resources(found[name], config.get("K", 1) * config["B"] / (32 * warps))
print(json.dumps([dict((name, [k.asm["ttir"], k.asm["ptx"]]) for name, k in found.items()), spent, said.getvalue()]))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """By kernel its text in Triton's and in the GPU's instructions; of those written by hand what they take; and what `budgets.py` says.

    The sum is that of a function with every operation there is, its derivative beside it: each has a form that compiles.
    """
    caches = {name: str(tmp_path_factory.mktemp(name.lower())) for name in ("TRITON_CACHE_DIR", "ALIGN_KERNELS_CACHE")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=ENVIRONMENT | caches, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.timeout(900)  # minutes of computing, which a busy machine stretches
def test_every_kernel_for_every_divergence_is_within_its_budget(compiled):
    assert re.fullmatch(r"\d+ kernels within their budgets\n", compiled[2]), compiled[2]


def test_no_pass_over_pairs_costs_more_than_reading_them_but_for_those_that_are_named():
    pairs = {n: b["instructions"] for n, b in json.loads(FILE.read_text()).items() if " fp32 " in n}
    over = {name for name, instructions in pairs.items() if instructions > MEMORY}
    assert len(pairs) > 40 and over == {n for n in pairs if n.endswith(tuple(OVER))}


def test_the_check_notices_what_costs_more():
    budgets = json.loads(FILE.read_text())
    found = {n: Resources(int(b["registers"]), 0, b["instructions"]) for n, b in budgets.items()}
    name = "sm_90 fp32 sum reverse_kl"
    assert not excesses(found, budgets)
    assert excesses(found | {name: found[name]._replace(spilled=8)}, budgets) == [f"{name}: 8 bytes spilled"]
    assert "instructions" in excesses(found | {name: found[name]._replace(instructions=found[name].instructions + 2)}, budgets)[0]
    assert "registers" in excesses(found | {name: found[name]._replace(registers=96)}, budgets)[0]
    assert excesses(found | {"new": found[name]}, budgets)
    assert excesses({k: v for k, v in found.items() if k != name}, budgets) == [f"{name}: no such kernel any more"]


def test_rows_are_found_with_64_bits_and_read_by_16_bytes(compiled):
    assert len(compiled[0]) == 5
    for name, (ttir, ptx) in compiled[0].items():
        # Row 14,134 of a vocabulary of 151,936 lies beyond 2^31: no number of a row may be multiplied in 32 bits (a tile's columns may).
        products = re.findall(r"arith\.muli [^:]*: (i\d+)", ttir)
        assert products and set(products) == {"i64"}, name
        assert "ld.global.v4.b32" in ptx, name


def test_nothing_of_the_reverse_kl_by_hand_spills_and_memory_is_its_limit(compiled):
    assert len(compiled[1]) == 2
    for name, (registers, spilled, instructions) in compiled[1].items():
        assert spilled == 0 and registers <= 128 and 0 < instructions < MEMORY, (name, registers, spilled, instructions)
