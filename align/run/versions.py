"""The versions of the software that a run's numbers depend on."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("align", "torch", "transformers")


def versions() -> dict[str, str]:
    """By name: the version of Python and of each package; `unknown` for one that is imported from a folder."""
    return {"python": platform.python_version(), **{name: _of(name) for name in PACKAGES}}


@cache
def _of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
