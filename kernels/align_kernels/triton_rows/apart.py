"""A divergence's kernels compiled in a process of their own first: a fault inside the compiler ends the process that it happens in.

A user's `f` becomes source that no compiler has seen. LLVM may abort on it, and the process would be a learner with a model loaded.
What is compiled here lies in Triton's cache afterwards, so that the first launch finds it.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from align_kernels import triton_rows
from align_kernels.codegen import DivergenceError, Fused, cache
from align_kernels.codegen.fused import TritonForms

SECONDS = 300
WIDTH = 2064
"""Logits in a row: a multiple of 16, as those of a real vocabulary are, so that a launch finds these kernels."""


class NoDevice:
    """A driver that says which GPU to compile for, and has none."""

    class utils:
        """What the compiler asks of a driver."""

        @staticmethod
        def get_device_properties(_: int) -> dict[str, int]:
            return {"max_shared_mem": 232448, "multiprocessor_count": 132}

    def __init__(self, arch: int):
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, _: int | None = None) -> int:
        return 0


def compile_instead_of_launching(device: NoDevice) -> None:
    """From here on this process compiles for that device whatever it launches, and runs none of it."""
    driver.set_active(device)  # pyright: ignore[reportArgumentType]  # The compiler asks for less than a whole driver.
    JITFunction.__getitem__ = _compiled


def _compiled(self: JITFunction, grid: Any) -> Callable:
    return functools.partial(self.run, grid=grid, warmup=True)


def stop_unless_compiled(fn: Fused, dtype: torch.dtype, arch: int) -> None:
    """Compiles the passes of a divergence for a CUDA architecture (90 is sm_90), for float32 and bfloat16 logits, or float64 ones.

    Raises DivergenceError where the compiler refuses the source, ends its process, or takes more than SECONDS.
    """
    job = {
        "source": str(cache.write(fn.source(dtype))),
        "params": fn.params,
        "power": fn.power,
        "arch": arch,
        "double": dtype == torch.float64,
    }
    # -P: a file of the working directory must not stand for a module of the standard library.
    command = [sys.executable, "-P", "-m", __name__, json.dumps(job)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise DivergenceError(f"{fn.name}: its kernels for sm_{arch} were not compiled after {SECONDS} s") from error
    if done.returncode < 0:
        raise DivergenceError(
            f"{fn.name}: the compiler ended its process with {signal.Signals(-done.returncode).name} on the kernels for "
            f"sm_{arch}: a fault of its own; another way of writing f may avoid it"
        )
    if done.returncode:
        raise DivergenceError(f"{fn.name}: its kernels cannot be compiled for sm_{arch}: {done.stderr.strip()[-300:]}")


class _Source(NamedTuple):
    """What the passes take of a `Fused`, from the file of its source."""

    module: ModuleType
    params: tuple[float, ...]
    power: float | None

    def triton(self, _: torch.dtype) -> TritonForms:
        return TritonForms(self.module.terms, self.module.term, self.module.pull)


def _compile(job: dict[str, Any]) -> None:
    compile_instead_of_launching(NoDevice(job["arch"]))
    fn = _Source(cache.load(Path(job["source"]).read_text()), tuple(job["params"]), job["power"])
    for dtype in (torch.float64,) if job["double"] else (torch.float32, torch.bfloat16):
        z, labels = torch.zeros(2, WIDTH, dtype=dtype), torch.zeros(2, dtype=torch.int64)
        one = torch.ones(2, dtype=torch.float64 if job["double"] else torch.float32)
        triton_rows.row_sum(z, z, one, one, scale=1.0, ref_scale=1.0, fn=fn)
        triton_rows.row_grad(z, z, one, one, None, None, one, None, None, one, scale=1.0, fn=fn)
        if fn.power is not None:
            triton_rows.one_pass(z, z, labels, scale=1.0, ref_scale=1.0, fn=fn)


if __name__ == "__main__":
    try:
        _compile(json.loads(sys.argv[1]))
    except Exception as error:
        # Triton quotes its source before it says what is wrong, and raises again for each function that calls it.
        while error.__cause__ is not None:
            error = error.__cause__
        sys.exit(f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[-1]}")
