"""Seconds and memory of a call, on the device that does it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


ROUNDS = {"cuda": 3, "cpu": 1}


def seconds(call: Callable[[], object], device: str) -> float:
    """The median of a few calls, after one that is not counted."""
    call()
    times = []
    for _ in range(ROUNDS[device]):
        wait(device)
        began = time.perf_counter()
        call()
        wait(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def peak_gib(call: Callable[[], object], device: str) -> float | None:
    """GiB allocated at once during a call, above what was there before; None on a CPU, where torch does not count."""
    if device != "cuda":
        call()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**30, 3)


def cost(call: Callable[[], object], device: str) -> dict[str, float | str | None]:
    """`ms` and `GiB`, or `failed` where the device's memory is too small."""
    try:
        return {"ms": round(1e3 * seconds(call, device), 2), "GiB": peak_gib(call, device)}
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
