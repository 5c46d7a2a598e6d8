"""The machine: versions, memory's and the GEMM's speed, the products and the attention that training rests on."""

from __future__ import annotations

import importlib.metadata
import platform

import torch
from torch import Tensor

from align_kernels.gemm import add_product, product
from gpu_check.findings import Findings
from gpu_check.measure import cost, seconds

PACKAGES = ("torch", "triton", "transformers", "peft", "pytest", "omegaconf", "matplotlib", "ray", "vllm", "liger-kernel")
COLUMNS = (11584, 11585, 11586, 11588, 11592, 2896, 2364, 16384)
"""Leading dimensions of float32 logits and of their gradient in half precision; kernels for tensor cores want multiples of 16 bytes."""


def run(found: Findings, device: str) -> None:
    large = device == "cuda"
    found.put("versions", {"python": platform.python_version()} | {name: version(name) for name in PACKAGES})
    if large:
        properties = torch.cuda.get_device_properties(0)
        found.put(
            "device",
            {
                "name": properties.name,
                "GiB": round(properties.total_memory / 2**30, 1),
                "multiprocessors": properties.multi_processor_count,
            },
        )
    with found.case("copy"):
        copy(found, device, 1 << (30 if large else 20))
    with found.case("gemm"):
        gemm(found, device, 8192 if large else 128)
    for columns in COLUMNS:
        with found.case(f"{columns} columns"):
            head_products(found, device, columns, *((8192, 1536) if large else (16, 8)))
    for dtype in (torch.float32, torch.bfloat16):
        with found.case(f"attention {dtype}"):
            attention(found, device, dtype, 4096 if large else 64)


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def copy(found: Findings, device: str, size: int) -> None:
    source = torch.empty(size, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    found.put("copy GB/s, read and write", round(2 * size / seconds(lambda: target.copy_(source), device) / 1e9, 1))


def gemm(found: Findings, device: str, side: int) -> None:
    """bfloat16 in bfloat16; with its float32 accumulator written out; with a float32 summand."""
    a, b = (half(side, side, device=device) for _ in range(2))
    out = product(a, b)
    calls = {"bf16": lambda: a @ b, "to fp32": lambda: product(a, b, out=out), "added to fp32": lambda: add_product(out, a, b)}
    found.put("GEMM TFLOP/s", {name: tflops(call, device, side, side, side) for name, call in calls.items()})
    ones = torch.ones(side, side, device=device)
    add_product(ones, a, b)
    wanted = 1 + a.double() @ b.double()
    found.put("added to fp32: largest error over largest element", ((ones - wanted).abs().max() / wanted.abs().max()).item())


def head_products(found: Findings, device: str, columns: int, tokens: int, width: int) -> None:
    """The three products of a block of logits with so many columns, each of which is a leading dimension once."""
    hidden, weight, grad = half(tokens, width, device=device), half(columns, width, device=device), half(tokens, columns, device=device)
    logits, d_hidden, d_weight = product(hidden, weight.T), product(grad, weight), product(grad.T, hidden)
    calls = {
        "logits": lambda: product(hidden, weight.T, out=logits),
        "d hidden": lambda: add_product(d_hidden, grad, weight),
        "d weight": lambda: add_product(d_weight, grad.T, hidden),
    }
    found.put(f"{columns} columns, TFLOP/s", {name: tflops(call, device, tokens, columns, width) for name, call in calls.items()})


def attention(found: Findings, device: str, dtype: torch.dtype, length: int) -> None:
    """12 query heads on 2 of keys, as in Qwen2.5-1.5B. A peak of gigabytes means that a matrix of scores was allocated."""

    def heads(count: int) -> Tensor:
        return torch.randn(2, count, length, 128, device=device, dtype=dtype, requires_grad=True)

    q, k, v = heads(12), heads(2), heads(2)

    def step() -> None:
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).sum().backward()

    found.put(f"attention of grouped heads, 2 x {length} tokens, {str(dtype).removeprefix('torch.')}", cost(step, device))


def half(*size: int, device: str) -> Tensor:
    return torch.randn(*size, device=device, dtype=torch.bfloat16)


def tflops(call: object, device: str, *sides: int) -> float:
    return round(2 * sides[0] * sides[1] * sides[2] / seconds(call, device) / 1e12, 4)
