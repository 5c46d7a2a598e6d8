"""Nested dictionaries and lists of tensors and JSON values on disk: tensors in safetensors files, their places in `state.json`.

Reading it runs no code of the files, unlike a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from align.errors import UserError

PLAN = "state.json"
FILE_BYTES = 1 << 28
"""A file ends with the tensor that reaches this size: files are hashed side by side."""


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state into a folder, bit for bit.

    Raises: UserError for a value that is neither a tensor nor a JSON value, with the keys that lead to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    plan = _planned(state, "", tensors)
    names = []
    for number, part in enumerate(_files(tensors)):
        names.append(f"tensors_{number:05d}.safetensors")
        save_file(part, folder / names[-1])
    (folder / PLAN).write_text(json.dumps({"files": names, "state": plan}))


def load(folder: Path) -> dict[str, Any]:
    """What `save` was given, on the CPU; a tuple is a list. Raises UserError if the folder does not hold that."""
    try:
        plan = json.loads((folder / PLAN).read_text())
        tensors = {name: t for file in plan["files"] for name, t in load_file(folder / Path(file).name).items()}
        return _restored(plan["state"], tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{folder} is not a complete checkpoint ({error!r:.100}): resume from the one before") from error


def _planned(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """The plan of a value. A mapping in it is {"of": ...} and a tensor {"tensor": NAME}; all else stands for itself."""
    if isinstance(value, Tensor):
        name = where if where not in tensors else f"{where} ({len(tensors)})"  # of two keys "a/b" and "a", "b"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"of": {key: _planned(inner, f"{where}/{key}".lstrip("/"), tensors) for key, inner in value.items()}}
    if isinstance(value, list | tuple):
        return [_planned(inner, f"{where}/{i}", tensors) for i, inner in enumerate(value)]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise UserError(f"{where}: {value!r:.60} cannot be kept in a checkpoint; a state holds tensors, numbers, strings, lists and dicts")


def _restored(plan: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(plan, list):
        return [_restored(inner, tensors) for inner in plan]
    if not isinstance(plan, dict):
        return plan
    if "tensor" in plan:
        return tensors[plan["tensor"]]
    return {key: _restored(inner, tensors) for key, inner in plan["of"].items()}


def _files(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors of one file after the other, on the CPU. safetensors refuses two that share memory, and tensors with gaps."""
    part, size, seen = {}, 0, set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        shared = plain.untyped_storage()
        whole = shared.nbytes() == plain.nbytes and shared.data_ptr() not in seen
        seen.add(shared.data_ptr())
        part[name] = plain if whole else plain.clone()
        size += plain.nbytes
        if size >= FILE_BYTES:
            yield part
            part, size, seen = {}, 0, set()
    yield part
