"""The process of one stage: `python -m gpu_check.child MODULE NAME DEVICE FOLDER`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from gpu_check.findings import Findings


def main(module: str, name: str, device: str, folder: str) -> int:
    found = Findings(Path(folder), name)
    with found.case("the stage"):
        importlib.import_module(module).run(found, device)
    return 1 if found.failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
