"""Emitted source as files named by their content: `ALIGN_KERNELS_CACHE`, or `align_kernels` in the user's cache folder."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import tempfile
from pathlib import Path
from types import ModuleType


def content_hash(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def folder() -> Path:
    chosen = os.environ.get("ALIGN_KERNELS_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "align_kernels"


def write(source: str) -> Path:
    """The file of this source. Safe when many processes write at once: each renames a whole file into place."""
    path = folder() / f"div_{content_hash(source)}.py"
    if not path.exists() or path.read_text() != source:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
            file.write(source)
        os.replace(file.name, path)
    return path


@functools.cache
def load(source: str) -> ModuleType:
    """The module of this source. It lies in a file because Triton reads its functions' text from there."""
    path = write(source)
    spec = importlib.util.spec_from_file_location(f"align_kernels_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # The path ends in .py.
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
