"""Do the tests notice? Puts one bug at a time into a copy of the sources and runs the tests that must fail.

    python tests/sabotage/run.py [--list] [NAME...]

Names are beginnings of mutants' names; none means all. Exits with 1 where a mutant survives or no longer applies, or where a
test fails without any.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
COPIED = ("align", "examples", "kernels", "recipes", "tests", "docs", "pyproject.toml", "README.md")
INTERPRETED = "kernels/interpreted/"
"""Tests in Triton's interpreter, which are collected only where it is on from the start."""
FAILED = 1
"""What pytest exits with where a test failed. A mutant that cannot be imported, or a test that is not found, exits with another."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the mutants and their tests")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.names or m.name.startswith(tuple(options.names))]
    if not chosen:
        parser.error("no mutant is called that; --list prints them")
    if options.list:
        for m in chosen:
            print(f"{m.name}\n    {m.file}, noticed by {m.tests}")
        return 0
    with tempfile.TemporaryDirectory(prefix="align-sabotage-") as folder:
        return sabotage(Path(folder), chosen)


def sabotage(copy: Path, chosen: list[Mutant]) -> int:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, copy / name)
    tests = sorted({t for m in chosen for t in m.tests.split()})
    red = []
    for some in filter(None, ([t for t in tests if INTERPRETED not in t], [t for t in tests if INTERPRETED in t])):
        code, output = run_tests(copy, *some)
        found = [line.partition(" ")[2].partition(" - ")[0] for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        if code and not found:
            raise SystemExit(f"the tests cannot be run:\n{output[-3000:]}")
        red += found
    if red:
        print(f"these fail without a mutant, and are left out: {', '.join(red)}", flush=True)
    verdicts = {}
    for m in chosen:
        began = time.monotonic()
        verdicts[m.name] = verdict(copy, m, red)
        print(f"{verdicts[m.name]:<10}{time.monotonic() - began:5.0f} s  {m.name}  ({m.file})", flush=True)
    killed = sum(v == "killed" for v in verdicts.values())
    print(f"{killed} of {len(verdicts)} killed")
    return 0 if killed == len(verdicts) and not red else 1


def verdict(copy: Path, mutant: Mutant, left_out: list[str]) -> str:
    """`killed`, `survived`, `gone` (the text is not there exactly once) or `broken` (the tests could not be run)."""
    file = copy / mutant.file
    source = file.read_text()
    if source.count(mutant.old) != 1:
        return "gone"
    file.write_text(source.replace(mutant.old, mutant.new))
    try:
        code, _ = run_tests(copy, "-x", *(f"--deselect={test}" for test in left_out), *mutant.tests.split())
    finally:
        file.write_text(source)
    return {0: "survived", FAILED: "killed"}.get(code, "broken")


def run_tests(copy: Path, *arguments: str) -> tuple[int, str]:
    """pytest's exit code and what it said. The copy comes before an installed align, in children too."""
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if any(INTERPRETED in argument for argument in arguments):
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(a if a.startswith("-") else f"tests/{a}" for a in arguments)],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main())
