"""What the kernels become on a GPU, without one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# In a process that has the interpreter on, there is nothing to compile.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"OMP_NUM_THREADS": "1"}

PROGRAM = """
import json, sys
sys.path.insert(0, {here!r})
import budgets
from kernels.operations import EVERY_ONE
fn, rows = budgets.fused(EVERY_ONE), budgets.Rows()
compiled = dict(stats=budgets.stats(budgets.Rows("bf16"), 90), sum=budgets.sums(rows, 90, fn), grad=budgets.grad(rows, 90, fn))
print(json.dumps({{name: [k.asm["ttir"], k.asm["ptx"]] for name, k in compiled.items()}}))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    caches = {name: str(tmp_path_factory.mktemp(name.lower())) for name in ("TRITON_CACHE_DIR", "ALIGN_KERNELS_CACHE")}
    return ENVIRONMENT | caches


def test_every_kernel_for_every_divergence_is_within_its_budget(environment):
    done = subprocess.run([sys.executable, str(HERE / "budgets.py")], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert re.match(r"\d+ kernels within", done.stdout)


def test_no_pass_over_pairs_costs_more_than_reading_them_but_for_those_that_are_named():
    from kernels.budgets import FILE, MEMORY, OVER

    pairs = {n: b["instructions"] for n, b in json.loads(FILE.read_text()).items() if " fp32 " in n}
    over = {name for name, instructions in pairs.items() if instructions > MEMORY}
    assert len(pairs) > 60 and over == {n for n in pairs if n.endswith(tuple(OVER))}


def test_the_check_notices_what_costs_more():
    from kernels.budgets import FILE, excesses

    from align_kernels.aot import Resources

    budgets = json.loads(FILE.read_text())
    found = {n: Resources(int(b["registers"]), 0, b["instructions"]) for n, b in budgets.items()}
    name = "sm_90 fp32 sum reverse_kl"
    assert not excesses(found, budgets)
    assert excesses(found | {name: found[name]._replace(spilled=8)}, budgets) == [f"{name}: 8 bytes spilled"]
    assert "instructions" in excesses(found | {name: found[name]._replace(instructions=found[name].instructions + 2)}, budgets)[0]
    assert "registers" in excesses(found | {name: found[name]._replace(registers=96)}, budgets)[0]
    assert excesses(found | {"new": found[name]}, budgets)
    assert excesses({k: v for k, v in found.items() if k != name}, budgets) == [f"{name}: no such kernel any more"]


def test_rows_are_found_with_64_bits_and_read_by_16_bytes(environment):
    """Of a function with every operation there is: each has a form that compiles."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(here=str(HERE))], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, (ttir, ptx) in json.loads(done.stdout).items():
        # Row 14,134 of a vocabulary of 151,936 lies beyond 2^31: no number of a row may be multiplied in 32 bits (a tile's columns may).
        products = re.findall(r"arith\.muli [^:]*: (i\d+)", ttir)
        assert products and set(products) == {"i64"}, name
        assert "ld.global.v4.b32" in ptx, name
