"""Every row kernel as a launch on a GPU meets it: Triton's own binder, specialisation and compiler for a CUDA architecture, but no device.

`python tests/kernels/launches.py ARCH ...` runs all launches for the first architecture and those of BRIEF for the others, in a process of
its own because the driver is global. It prints as JSON what each compiled, or its error.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

from align.divergences.jensen_shannon import JensenShannon
from align.divergences.reverse_kl import ReverseKl
from align_kernels import Compared, Elementwise, Head, linear_stats, token_stats, triton_rows
from align_kernels.backends import Rows
from align_kernels.triton_rows.apart import NoDevice, compile_instead_of_launching
from kernel_bench.hand_written import reverse_kl

FP32, BF16, FP64 = torch.float32, torch.bfloat16, torch.float64
MODEL, ODD = 151936, 151953
"""A vocabulary of a model, and one that no 16 bytes divide."""
BRIEF = ("power, float32", "mixture, float32")
"""Launches of every kernel once."""


compiled: Counter[str] = Counter()
"""By kernel: how many were made."""


def _counted(*, fn: Any, **_: Any) -> None:
    compiled[fn.name] += 1


ROWS = Rows("triton", triton_rows.row_stats, triton_rows.row_sum, triton_rows.row_grad, triton_rows.one_pass)
KINDS = {
    "power": ReverseKl(),
    "mixture": JensenShannon(),
    "f alone": lambda x: x * torch.exp(x) - (torch.exp(x) + 1) * (torch.nn.functional.softplus(x) - math.log(2)),
    "elementwise": Elementwise(lambda a, b, c: torch.exp(a) * (a - b) * c, (0.5,)),
}


def whole(
    kind: str | None, dtype: torch.dtype, V: int, *, T: int = 3, stride: int = 0, start: int = 0, backend: Rows = ROWS, **keys: Any
) -> None:
    """Forward and backward of all statistics from logits, whose rows begin `stride` apart, the first at `start`."""
    base = torch.zeros(T, max(V, stride), dtype=dtype).requires_grad_()
    u = None if kind is None else torch.zeros(T, V, dtype=dtype)
    stats = token_stats(base[:, start : start + V], torch.zeros(T, dtype=torch.int64), u, KINDS.get(kind), backend=backend, **keys)
    _backward([stats.logp, stats.entropy, *([] if kind is None else [stats.div])], [base])


def head(kinds: list[str], dtype: torch.dtype, V: int, softcap: float | None = None, elements: int = 1 << 24) -> None:
    """The same from hidden states, against one reference with several divergences, and without one where `kinds` is empty."""
    hidden, weight = torch.zeros(20, 16, dtype=dtype).requires_grad_(), torch.zeros(V, 16, dtype=dtype).requires_grad_()
    reference = Head(weight.detach(), None, 1.0, softcap)
    stats = linear_stats(
        hidden,
        Head(weight, None, 1.0, softcap),
        torch.zeros(20, dtype=torch.int64),
        elements=elements,
        backend=ROWS,
        compared={kind: Compared(KINDS[kind], hidden.detach(), reference) for kind in kinds},
        logits_dtype=dtype,
    )
    _backward([stats.logp, stats.entropy, *stats.div.values()], [hidden, weight])


def number(value: float) -> None:
    """An Elementwise with this parameter, alone in the loss."""
    z, labels = torch.zeros(3, 2048).requires_grad_(), torch.zeros(3, dtype=torch.int64)
    _backward([token_stats(z, labels, torch.zeros(3, 2048), Elementwise(KINDS["elementwise"].phi, (value,)), backend=ROWS).div], [z])


def _backward(outputs: list[Tensor], leaves: list[Tensor]) -> None:
    torch.autograd.grad(sum(t.sum() for t in outputs), leaves)


def launches() -> dict[str, Callable[[], None]]:
    """By name; each is run once, so "again" says that an earlier one compiled the kernels."""
    of = functools.partial
    types = {"bfloat16": BF16, "float64": FP64}
    return {
        **{f"{kind}, float32": of(whole, kind, FP32, MODEL) for kind in KINDS},
        **{f"{kind}, {name}": of(whole, kind, dtype, MODEL) for kind in ("power", "mixture") for name, dtype in types.items()},
        **{f"{kind}, V={V}": of(whole, kind, FP32, V) for V in (1, 17, 20, ODD) for kind in ("power", "mixture")},
        "no divergence": of(whole, None, FP32, MODEL),
        "no divergence, odd": of(whole, None, BF16, ODD),
        "again, another length": of(whole, "power", FP32, MODEL, T=5),
        "again, another temperature": of(whole, "power", FP32, MODEL, temperature=0.7),
        "again, an integer temperature": of(whole, "power", FP32, MODEL, temperature=2),
        "longer rows": of(whole, "mixture", FP32, MODEL, stride=MODEL + 64),
        "unaligned rows": of(whole, "power", FP32, MODEL, stride=ODD, start=3),
        "soft cap, power": of(head, ["power"], FP32, 4096, 30.0),
        "soft cap, mixture": of(head, ["mixture"], FP32, 4096, 30.0),
        "soft cap, no divergence": of(head, [], FP32, 4096, 30.0),
        "again, an integer soft cap": of(head, ["power"], FP32, 4096, 30),
        "two divergences, blocks": of(head, ["power", "f alone"], FP32, 4096, elements=1 << 15),
        "number": of(number, 0.5),
        "again, the number 1": of(number, 1),
        "again, the number 16": of(number, 16),
        "reverse KL by hand": of(whole, "power", FP32, MODEL, backend=reverse_kl()),
    }


def main(archs: list[int]) -> None:
    device = NoDevice(archs[0])
    compile_instead_of_launching(device)
    triton.knobs.runtime.jit_post_compile_hook = _counted
    found: dict[str, dict[str, int] | str] = {}
    for arch in archs:
        device.arch = arch
        for name, launch in launches().items():
            if arch == archs[0] or name in BRIEF:
                compiled.clear()
                try:
                    launch()
                    found[f"sm_{arch} {name}"] = dict(compiled)
                except Exception as error:  # every failure is reported, by name
                    found[f"sm_{arch} {name}"] = f"{type(error).__name__}: {error}"[:1500]
    print(json.dumps(found))


if __name__ == "__main__":
    main([int(arch) for arch in sys.argv[1:]])
