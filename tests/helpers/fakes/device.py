"""A simulated GPU: tensors that say they are on a device of their own, compute on the CPU, and count what a real one would wait for.

Operations that mix its tensors with the CPU's raise, as on a GPU. What is recorded, with the place in align that asked: waits of the host
(a number read back, a boolean index, a copy to pageable memory) and the bytes of copies each way.

`install` cannot be undone: use it in a process of its own.
"""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "simulated"
WAITING = {
    "aten._local_scalar_dense.default",
    "aten.nonzero.default",
    "aten.masked_select.default",
    "aten._unique2.default",
    "aten.equal.default",
    "aten.is_nonzero.default",
    "aten.repeat_interleave.Tensor",
}
WIDENED = {"aten.mm.dtype": 2, "aten.mm.dtype_out": 2, "aten.addmm.dtype_out": 3}
"""Products of half-precision factors with a float32 result, which a CPU has not: the argument that is that type."""

waits: Counter[tuple[str, str]] = Counter()
copied: Counter[str] = Counter()
"""Bytes, `to device` and `to host`."""


class Simulated(torch.Tensor):
    """One tensor of the device, around the one that computes."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Simulated:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        made.inner = inner
        return made

    is_cuda = property(lambda self: True)  # pyright: ignore[reportAssignmentType]  # torch's stubs have a plain bool
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]  # as torch documents

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        _wait("tolist")
        return self.inner.tolist()


class Device(TorchDispatchMode):
    """Within it, tensors made on the device are simulated."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(t, Simulated) for t in tree_leaves((args, kwargs))) or _names_it(kwargs.get("device")):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


def install() -> torch.device:
    """Make the device known to torch."""
    _setup_privateuseone_for_python_backend(NAME)
    torch.__future__.set_swap_module_params_on_conversion(True)
    return torch.device(NAME, 0)


def _names_it(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Simulated) else value


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    name, leaves = str(func), [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    here = [t for t in leaves if isinstance(t, Simulated)]
    if name == "aten.copy_.default":
        return _copy(*args[:2])
    if name.startswith(("aten._to_copy", "aten.to.")):
        return _moved(func, args, kwargs)
    index = name.startswith(("aten.index.Tensor", "aten.index_put"))
    if index and any(isinstance(i, Simulated) and i.dtype == torch.bool for i in args[1]):
        _wait("boolean index")
    if not index and here and any(t.dim() for t in leaves if not isinstance(t, Simulated)):
        raise RuntimeError(f"{name}: expected all tensors on one device, found {NAME} and cpu at {_place()}")
    if here and name in WAITING:
        _wait(name)
    options = dict(kwargs)
    if _names_it(options.get("device")):
        options["device"] = torch.device("cpu")
    inner, options = tree_map(_inner, (args, options))
    if name in WIDENED:
        return _widened(name, args, inner, options, kwargs)
    made, same = func(*inner, **options), {id(t.inner): t for t in here}
    if not here and not _names_it(kwargs.get("device")):
        return made

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return same[id(value)] if id(value) in same else Simulated(value)

    return tree_map(wrapped, made)


def _copy(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    _count(isinstance(source, Simulated), isinstance(target, Simulated), source, pinned=False)
    _inner(target).copy_(_inner(source))
    return target


def _moved(func: Any, args: tuple, kwargs: dict) -> Any:
    device = kwargs.get("device")
    was = isinstance(args[0], Simulated)
    becomes = was if device is None else _names_it(device)
    options = {**kwargs, "device": torch.device("cpu")} if device is not None else kwargs
    made = func(*tree_map(_inner, args), **options)
    _count(was, becomes, made, pinned=bool(kwargs.get("non_blocking")))
    return Simulated(made) if becomes else made


def _count(was: bool, becomes: bool, moved: torch.Tensor, pinned: bool) -> None:
    if was != becomes:
        copied["to device" if becomes else "to host"] += moved.nbytes
        if was and not pinned:
            _wait("copy to the host")


def _widened(name: str, args: tuple, inner: tuple, options: dict, kwargs: dict) -> Any:
    dtype = inner[WIDENED[name]]
    if name == "aten.addmm.dtype_out":
        result = inner[0] + inner[1].to(dtype) @ inner[2].to(dtype)
    else:
        result = inner[0].to(dtype) @ inner[1].to(dtype)
    if "out" not in kwargs:
        return Simulated(result)
    options["out"].copy_(result)
    return kwargs["out"]


def _wait(what: str) -> None:
    waits[what, _place()] += 1


def _place() -> str:
    """The innermost line of align, or of a library it called."""
    frames = [f for f in traceback.extract_stack() if not f.filename.endswith("fakes/device.py")]
    for part in ("/align/", "/align_kernels/", "/transformers/", "/peft/"):
        for frame in reversed(frames):
            if part in frame.filename:
                return f"{frame.filename.rpartition(part)[2]}:{frame.lineno}"
    return "?"
