"""The cache folder for warm starts and references' log-probs, which are stored by content hash."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$ALIGN_CACHE`, else `align` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`)."""
    chosen = os.environ.get("ALIGN_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "align"
