"""What the reverse KL written by hand becomes on a GPU, without one."""

import json
import os
import re
import subprocess
import sys

# In a process that has the interpreter on, there is nothing to compile.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"OMP_NUM_THREADS": "1"}

PROGRAM = """
import json
from align_kernels.aot import compile_kernel, resources
from align_kernels.bench import hand_written as by_hand
types = dict.fromkeys(["Z", "U", "OUT", "D", "W"], "*fp32") | dict.fromkeys(["LSE_P", "LSE_Q"], "*fp64") | {"G": "*bf16", "LABELS": "*i64"}
types |= dict.fromkeys(["V", "stride_z", "stride_u", "stride_out", "stride_g", "first"], "i32") | {"scale_z": "fp32", "scale_u": "fp32"}
found = {}
for kernel, config in ((by_hand.forward, by_hand.FORWARD), (by_hand.backward, by_hand.BACKWARD)):
    config = dict(config)
    warps = config.pop("num_warps")
    compiled = compile_kernel(kernel, types, config, arch=90, num_warps=warps)
    logits = config.get("K", 1) * config["B"] / (32 * warps)
    found[kernel.__name__] = [*resources(compiled, logits), compiled.asm["ttir"], compiled.asm["ptx"]]
print(json.dumps(found))
"""
# A pair of float32 logits takes as long to read as an H100 takes for 68 instructions.
MEMORY_BOUND = 68


def test_nothing_spills_and_memory_is_the_limit(tmp_path):
    environment = ENVIRONMENT | {name: str(tmp_path) for name in ("TRITON_CACHE_DIR", "ALIGN_KERNELS_CACHE")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, (registers, spilled, instructions, ttir, ptx) in json.loads(done.stdout).items():
        assert spilled == 0 and registers <= 128 and 0 < instructions < MEMORY_BOUND, (name, registers, spilled, instructions)
        assert "ld.global.v4.b32" in ptx, name
        # Row 14,134 of a vocabulary of 151,936 lies beyond 2^31.
        products = re.findall(r"arith\.muli [^:]*: (i\d+)", ttir)
        assert products and set(products) == {"i64"}, name
