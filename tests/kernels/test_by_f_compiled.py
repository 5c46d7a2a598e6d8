"""What users write as f alone compiles for a GPU. In a process of its own: a fault of Triton's compiler ends the process.

The first of them, on which that of Triton 3.7.1 was seen to abort, is also among the budgets.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PROGRAM = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import budgets
from kernels.by_f import BY_F
from align_kernels.codegen import fused
for arch, names in ((80, list(BY_F)[:2]), (90, list(BY_F)[1:])):
    for name in names:
        print(name, arch, flush=True)
        budgets.sums(budgets.Rows(), arch, fused(BY_F[name])).compile()
print("all")
"""


def test_the_sums_compile(tmp_path):
    # In a process that has the interpreter on, there is nothing to compile.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(tmp_path / "triton"), "ALIGN_KERNELS_CACHE": str(tmp_path / "sources")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    begun = done.stdout.splitlines()
    assert (done.returncode, begun[-1:]) == (0, ["all"]), f"{begun[-1:]} ended with {done.returncode}: {done.stderr[-3000:]}"
