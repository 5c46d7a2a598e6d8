"""What the row kernels become on a GPU, found without one: registers, spills and instructions per logit.

Triton compiles ahead of time to machine code for any architecture, with the assembler in its own package; torch is not needed. Run it
where TRITON_INTERPRET is not set.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

_DISASSEMBLER = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Resources(NamedTuple):
    registers: int
    """A thread."""
    spilled: int
    """Bytes of a thread's stack."""
    instructions: float
    """Of a thread's main loops, for each logit (pair of logits) it reads there."""


class Compilation(NamedTuple):
    """What the compiler is given; nothing is compiled yet."""

    source: ASTSource
    target: GPUTarget
    options: dict[str, Any]

    def key(self) -> str:
        """16 hexadecimal digits of everything that decides the machine code: text, types, constants, options, compiler."""
        decides = [triton.__version__, self.source.hash(), self.target, sorted(self.options.items())]
        return hashlib.sha256(repr(decides).encode()).hexdigest()[:16]

    def compile(self) -> CompiledKernel:
        return triton.compile(self.source, target=self.target, options=self.options)


def compilation(
    kernel: triton.JITFunction, types: dict[str, Any], constants: dict[str, Any], *, arch: int, num_warps: int, aligned: bool = True
) -> Compilation:
    """`types` of the run-time arguments ("*fp32", "i64", a tuple of types); `constants`: constexpr arguments, and those that are None.

    `aligned`: V and the strides are multiples of 16, as those of a real vocabulary; pointers always are.
    """
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    multiples = [
        i for i, n in enumerate(kernel.arg_names) if str(signature[n]).startswith("*") or (aligned and (n == "V" or n.startswith("stride")))
    ]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs={(i,): [["tt.divisibility", 16]] for i in multiples})
    return Compilation(source, GPUTarget("cuda", arch, 32), {"num_warps": num_warps, "enable_fp_fusion": True})


def resources(compiled: CompiledKernel, logits: float, loops: int | None = None) -> Resources:
    """`logits`: how many of them (pairs of them) a thread reads in one turn of the main loop, or of all of them together; `loops`: how
    many, from the first, are counted."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [_DISASSEMBLER, "-res-usage", "-sass", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = map(int, re.findall(r"REG:(\d+) STACK:(\d+)", text)[0])
    return Resources(registers, stack, round(sum(main_loops(text)[:loops]) / logits, 1))


def main_loops(sass: str) -> list[int]:
    """Instructions of each innermost loop that reads global memory."""
    lines = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]+);", sass)]
    loops = []
    for at, text in lines:
        branch = re.search(r"\bBRA(?:\.\w+)*\s.*?0x([0-9a-f]+)", text)
        # The last instruction of every kernel jumps to itself.
        if branch and (start := int(branch[1], 16)) < at:
            loops.append((start, at))
    inner = [(s, e) for s, e in loops if not any(s <= s2 and e2 <= e and (s, e) != (s2, e2) for s2, e2 in loops)]
    bodies = [[t for at, t in lines if s <= at <= e] for s, e in inner]
    return [len(body) for body in bodies if any("LDG" in t for t in body)]
