"""Where the host waits for the GPU."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch


def waits(call: Callable[[], object]) -> dict[str, int]:
    """How often each place (folder/file:line) makes the host wait during a call, most often first."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return dict(Counter(place(w) for w in seen if "synchronizing" in str(w.message)).most_common())


def place(warning: warnings.WarningMessage) -> str:
    return f"{'/'.join(Path(warning.filename).parts[-2:])}:{warning.lineno}"
