"""Providers in one process, one round after the other (A B C A B C ...), with their memory and their errors in the same row."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._profiler import _ExtraFields_Allocation

from kernel_bench.jobs import Job
from kernel_bench.problem import Problem, Shape, problem, truth
from kernel_bench.providers import FLOOR, Loss, available

# The profiler, which counts memory on a CPU, tells of each start and stop otherwise.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

CHECKED = 128
"""Tokens whose float64 truth is computed."""
FLUSHED = 256 << 20
"""Bytes written between two runs on CUDA, so that no operand is in the L2 cache."""


@dataclass
class Row:
    """One provider at one job and shape."""

    job: str
    shape: str
    provider: str
    ms: float | None = None
    """Median of forward and backward."""
    ms_low: float | None = None
    """Lower quartile."""
    ms_high: float | None = None
    runs: int = 0
    first_s: float | None = None
    """The first call: tracing, compiling, allocating."""
    peak_mib: float | None = None
    """Above the operands, with the gradients."""
    loss_error: float | None = None
    """Relative, against float64."""
    hidden_error: float | None = None
    """Of the gradient of the hidden states (of the logits in the job `logits`): largest error over largest element."""
    weight_error: float | None = None
    """None where the head is frozen, or there is none."""
    failed: str | None = None
    """Why there is no figure: out of memory, for one."""


def run(loss: Loss, at: Problem) -> tuple[Tensor | None, list[Tensor]]:
    """Forward and backward: the loss and the gradients; the floor has neither."""
    _forget(at)
    value = loss(at)
    if value is not None:
        value.backward()
    return value, [leaf.grad for leaf in at.leaves if leaf.grad is not None]


def _forget(at: Problem) -> None:
    for leaf in at.leaves:
        leaf.grad = None


def measure(
    jobs: Sequence[Job],
    shapes: Sequence[Shape],
    *,
    device: str,
    dtype: torch.dtype,
    rounds: int,
    seconds: float,
    drift: float,
    only: Sequence[str] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """All rows as plain data, with what they were measured on. A job and shape takes about `seconds`, after its first calls."""
    rows = []
    for shape in shapes:
        for job in jobs:
            tell(f"{job.name} {shape}")
            rows += _rows(job, shape, device, dtype, rounds, seconds, drift, only)
    return {
        "device": _device_name(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).split(".")[1],
        "drift": drift,
        "rows": [asdict(r) for r in rows],
    }


def _rows(
    job: Job, shape: Shape, device: str, dtype: torch.dtype, rounds: int, seconds: float, drift: float, only: Sequence[str]
) -> list[Row]:
    # Dynamo counts recompilations of a function over the whole process, and past its limit runs it uncompiled without a word.
    torch.compiler.reset()
    at = problem(job, shape, dtype, device, drift)
    checked = at.first(CHECKED)
    expected = truth(checked)
    losses, rows = {}, []
    for name, make in available(job, device).items():
        if only and name != FLOOR and not any(word in name for word in only):
            continue
        row = Row(job.name, str(shape), name)
        rows.append(row)
        try:
            loss = make()
            started = time.perf_counter()
            run(loss, at)
            _wait(device)
            row.first_s = time.perf_counter() - started
            _forget(at)
            row.peak_mib = _peak(lambda loss=loss: run(loss, at), device) / 2**20
            value, grads = run(loss, checked)
            if value is not None:
                row.loss_error, row.hidden_error, row.weight_error = _errors(value, grads, expected)
            losses[name] = loss
        except torch.OutOfMemoryError:
            row.failed = "out of memory"
        _forget(at)
    times = _interleaved({name: lambda loss=loss: run(loss, at) for name, loss in losses.items()}, rounds, seconds, device)
    for row in rows:
        if row.provider in times:
            row.ms_low, row.ms, row.ms_high = statistics.quantiles(times[row.provider], n=4)
            row.runs = len(times[row.provider])
    return rows


def _errors(value: Tensor, grads: list[Tensor], expected: tuple[Tensor, list[Tensor]]) -> tuple[float, float, float | None]:
    loss = (abs(value.double() - expected[0]) / abs(expected[0])).item()
    of_grads = [((g.double() - e).abs().max() / e.abs().max()).item() for g, e in zip(grads, expected[1], strict=True)]
    return loss, of_grads[0], of_grads[1] if len(of_grads) > 1 else None


def _interleaved(runs: dict[str, Callable], rounds: int, seconds: float, device: str) -> dict[str, list[float]]:
    """Milliseconds by name. At least 3 rounds, then until the time is up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    flush = torch.empty(FLUSHED if device == "cuda" else 0, dtype=torch.int8, device=device)
    until = time.perf_counter() + seconds
    for number in range(rounds):
        if number >= 3 and time.perf_counter() > until:
            break
        for name, one in runs.items():
            flush.zero_()
            times[name].append(_timed(one, device))
    return times


def _timed(one: Callable, device: str) -> float:
    if device != "cuda":
        started = time.perf_counter()
        one()
        return 1e3 * (time.perf_counter() - started)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    one()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def _peak(one: Callable, device: str) -> int:
    """Bytes allocated at once during a run, above what was there before."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        one()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        one()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None  # The profile has ended.
    found, left = [], list(profile.profiler.kineto_results.experimental_event_tree())
    while left:
        event = left.pop()
        left += event.children
        if isinstance(event.extra_fields, _ExtraFields_Allocation):
            found.append((event.start_time_ns, event.extra_fields.alloc_size))
    live = top = 0
    for _, size in sorted(found):
        live += size
        top = max(top, live)
    return top


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    with open("/proc/cpuinfo") as info:
        return next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "CPU")
