"""The guard of a refactor: eight short runs in two trees, and every metric and every weight must be equal bit for bit.

BASE is a git ref, HEAD the working tree as it is, uncommitted changes included. Both use this Python and its packages.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from compare import accepted, results, runs
from compare.differences import differences
from compare.report import details, verdict

ROOT = Path(__file__).parents[2]
SOURCES = ("align", "kernels")
STOPPED = 128 + signal.SIGTERM
EXAMPLE = """\
examples:
  make compare BASE=main
  make compare BASE=HEAD~3 ARGS='--only ppo --only dpo'
  make compare BASE=main ARGS='--rename divergence/*=distance/*'
  make compare BASE=main ARGS='--override-head workers.backend= --override-head placement.backend=local'
  make compare BASE=main EXPECT=expected.yaml

expected.yaml lists what a change makes different on purpose; patterns as in a shell, metrics as the report prints them:
  - {recipe: ppo, metric: critic/*, reason: the critic's loss is a mean over tokens}
  - {recipe: "*", metric: "model/*", reason: model folders are written in bfloat16}
"""


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    names = list(dict.fromkeys(options.only or runs.RECIPES))
    try:
        for override in options.override_base + options.override_head:
            runs.parsed(override)
        renames = dict(_rename(text) for text in options.rename)
        entries = accepted.load(options.expect, list(runs.RECIPES)) if options.expect else []
        with tempfile.TemporaryDirectory(prefix="align-compare-") as work, _checked_out(options.base, Path(work)) as base:
            head = runs.Tree("HEAD", _copied(Path(work, "head")), options.override_head)
            trees = [runs.Tree("BASE", base, options.override_base), head]
            for tree in trees:
                runs.check_sources(tree)
            return _compare(names, trees, Path(work), options.jobs, renames, entries)
    except ValueError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make compare", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE", help="a commit, branch or tag")
    parser.add_argument(
        "--only", action="append", choices=runs.RECIPES, metavar="RECIPE", help=f"given again, several; of {', '.join(runs.RECIPES)}"
    )
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="a metric, key, tensor or file that HEAD calls otherwise; one * stands for the same text on both sides",
    )
    for tree in ("base", "head"):
        parser.add_argument(
            f"--override-{tree}",
            action="append",
            default=[],
            metavar="[RECIPE:]KEY=VALUE",
            help=f"a key of the recipes as {tree.upper()} spells it; KEY= leaves the key out",
        )
    parser.add_argument("--expect", type=Path, metavar="FILE.yaml", help="differences that are accepted, with their reasons")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="runs at once  [default: the number of cores]")
    return parser


def _rename(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old or not new or old.count("*") != new.count("*") or old.count("*") > 1:
        raise ValueError(f"--rename {text!r} is not OLD=NEW, with one * on both sides or on none")
    return old, new


@contextmanager
def _checked_out(ref: str, work: Path) -> Iterator[Path]:
    """A temporary git worktree. Raises ValueError where the ref is none."""
    tree = work / "base"
    added = subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), ref], cwd=ROOT, capture_output=True, text=True)
    if added.returncode:
        raise ValueError(f"BASE={ref} cannot be checked out: {added.stderr.strip()}")
    try:
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def _copied(folder: Path) -> Path:
    """The working tree's sources, so that an edit during the comparison is in none of the runs."""
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def _compare(
    names: list[str], trees: list[runs.Tree], work: Path, jobs: int, renames: dict[str, str], entries: list[accepted.Accepted]
) -> int:
    """Prints a line for each recipe as soon as both trees have run it, then the details. 1 where anything differs."""
    began = time.monotonic()
    # An environment may hold no compiled modules, and compiling them takes longer than a run: done once, beside the runs.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(work / "bytecode")
    runs.write_inputs(work)
    told: dict[str, list[str]] = {}
    width = max(map(len, names))
    with _cancelled_on_exit(ThreadPoolExecutor(jobs)) as pool:
        started = {name: [pool.submit(runs.run, name, tree, work, work / "runs" / tree.name / name) for tree in trees] for name in names}
        for name, both in started.items():
            line, lines = _judged(name, [future.result() for future in both], renames, entries)
            print(f"{name:<{width}}  {line}", flush=True)
            if lines:
                told[name] = lines
    for name, lines in told.items():
        print(f"\n{name}, BASE -> HEAD:")
        print("\n".join(f"  {line}" for line in lines))
    for entry in entries:
        print(f"accepted {entry.used} of {entry.recipe}, {entry.metric}: {entry.reason}")
    print(f"\n{len(names) - len(told)} of {len(names)} recipes equal, {time.monotonic() - began:.0f} s")
    return 1 if told else 0


@contextmanager
def _cancelled_on_exit(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """After Ctrl-C no further run begins."""
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _judged(name: str, both: list[runs.Run], renames: dict[str, str], entries: list[accepted.Accepted]) -> tuple[str, list[str]]:
    """The line of a recipe, and the details, of which an equal recipe has none."""
    failures = [run.failure for run in both if run.failure]
    if failures:
        return "FAILED", failures
    try:
        base, head = (results.read(run.folder, runs.STEPS) for run in both)
    except results.Incomplete as error:
        return "FAILED", [str(error)]
    found, taken = accepted.split(name, differences(base, head, renames), entries)
    return verdict(found, len(head), len(taken)), details(found)


if __name__ == "__main__":
    # Without this the temporary worktree would stay registered in the repository.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
    sys.exit(main())
