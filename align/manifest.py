"""The manifest of a folder: size and SHA-256 of each of its files. It is written last, and read before anything of the folder is used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from align.errors import UserError

FILE = "manifest.json"
THREADS = 4
"""Files that are hashed at once. Hashing releases the interpreter's lock."""


class Damaged(UserError):
    """A folder that is not what its manifest says. The message is `FILE: what is wrong`."""


class Entry(NamedTuple):
    """What a manifest holds of one file."""

    sha256: str
    size: int
    """In bytes."""


def entry(file: Path) -> Entry:
    """Hash a file that was written, and wait until the disk has it."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return Entry(digest, os.fstat(opened.fileno()).st_size)


def sync(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def entries(folder: Path) -> dict[str, Entry]:
    """An entry for every file in a folder and below, by its path from there."""
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and file != folder / FILE)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: entry(folder / name), names), strict=True))


def write(folder: Path, files: Mapping[str, Entry], **facts: Any) -> None:
    """Write the manifest of a folder whose other files are complete. Args: facts: further keys, JSON values."""
    content = {**facts, "files": {name: found._asdict() for name, found in sorted(files.items())}}
    (folder / FILE).write_text(json.dumps({**content, "sha256": _own_digest(content)}, indent=1) + "\n")
    entry(folder / FILE)
    for inner in {folder, *(folder / name for name in files)}:
        sync(inner if inner.is_dir() else inner.parent)


def verified(folder: Path) -> dict[str, Any]:
    """The manifest of a folder all of whose files are as it says; files that it does not name are not looked at.

    Raises: Damaged for the first file that is missing, has another size or another hash; sizes are compared first.
    """
    manifest = _read(folder)
    files = {name: Entry(**found) for name, found in manifest["files"].items()}
    for name, wanted in files.items():
        _check_size(folder / name, name, wanted)
    with ThreadPoolExecutor(THREADS) as pool:
        for name, found in zip(files, pool.map(lambda name: _hash(folder / name, name), files), strict=True):
            if found != files[name].sha256:
                raise Damaged(f"{name}: sha256 {found[:12]}, manifest says {files[name].sha256[:12]}")
    return manifest


def _read(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / FILE).read_bytes())
        content = {key: value for key, value in manifest.items() if key != "sha256"}
        for name, found in content["files"].items():
            Entry(**found)
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise Damaged(f"{FILE}: it names {name}, which is outside of the folder")
        whole = manifest["sha256"] == _own_digest(content)
    except FileNotFoundError:
        raise Damaged(f"{FILE}: missing") from None
    except OSError as error:
        raise Damaged(f"{FILE}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Damaged(f"{FILE}: cut short or overwritten") from None
    if not whole:
        raise Damaged(f"{FILE}: changed since it was written")
    return manifest


def is_whole(folder: Path, what: str, note: Callable[[str], None]) -> bool:
    """Whether a folder is as its manifest says; if not, what is wrong is noted."""
    try:
        verified(folder)
    except Damaged as error:
        note(f"{what} in {folder} is damaged: {error}; it is made again")
        return False
    return True


def _own_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_size(file: Path, name: str, wanted: Entry) -> None:
    if not file.exists():
        raise Damaged(f"{name}: missing")
    if not file.is_file():
        raise Damaged(f"{name}: not a file")
    if (size := file.stat().st_size) != wanted.size:
        raise Damaged(f"{name}: size {size}, manifest says {wanted.size}")


def _hash(file: Path, name: str) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise Damaged(f"{name}: cannot be read: {error.strerror}") from error
