"""Where what was computed once is kept, by content: warm starts, references' log-probs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$ALIGN_CACHE`, else `~/.cache/align`."""
    return Path(os.environ.get("ALIGN_CACHE") or Path.home() / ".cache" / "align")
