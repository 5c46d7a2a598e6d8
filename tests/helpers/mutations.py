"""Seeded mutations of recipes, rows and folders: what users, editors, scripts and other programs write by mistake."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, float("inf"), float("-inf"), float("nan"),
    "", " ", "0", "yes", "null", "no such name", "../up", "/", "./x.py:Y", "a:b", "${oc.env:HOME}", "${x}", "???", "{", "%s", "a\nb",
    "\x00", "\x1b[2J\x1b]0;x\x07", "[red]", "\u202eabc", "é", "\ud83d\ude00", "x" * 5000,
    [], [1], [[1, 2]], ["a", None], [0.9, 0.99], [0.9, 0.99, 0.999], {}, {"a": 1}, {"name": "tsallis"}, {"name": None}, {"name": 1},
    {"": ""}, {"name": "reverse_kl", "q": 1},
)  # fmt: skip
"""Values of wrong types, sizes and characters."""
TEXTS = ("\x00", "\t", "{", "}", "[", "]", ":", "- ", "&a *a", "!!python/object:os.system", "? ", "|", "\ufeff", "'", '"', "#", "*", "\r")


def recipe(random: Random, node: dict[str, Any]) -> bytes:
    """The recipe as a file, with one to three mistakes in its values, keys or text."""
    changed = copy.deepcopy(node)
    for _ in range(random.randint(1, 3)):
        _change(random, changed)
    text = json.dumps(changed, ensure_ascii=random.random() < 0.5).replace("NaN", ".nan").replace("Infinity", ".inf")
    return _damaged(random, text) if random.random() < 0.25 else text.encode("utf-8", "surrogatepass")


def rows(random: Random, good: list[dict[str, Any]]) -> bytes:
    """The lines of a JSONL file, with mistakes in one of them."""
    changed = copy.deepcopy(good)
    row = random.choice(changed)
    kind = random.random()
    if kind < 0.6:
        _change(random, row)
    lines = [json.dumps(r, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass") for r in changed]
    at = random.randrange(len(lines))
    if 0.6 <= kind < 0.7:
        lines[at] = json.dumps(random.choice(VALUES)).encode("utf-8", "surrogatepass")
    elif 0.7 <= kind < 0.75:
        depth = random.choice((50, 200, 100_000))
        lines[at] = b'{"prompt": "1", "answer": "2", "x": ' + b"[" * depth + b"]" * random.choice((depth, 0)) + b"}"
    elif 0.75 <= kind < 0.8:
        lines[at] = b'{"prompt": "1 \\ud83d", "answer": "2"}'
    elif kind >= 0.8:
        lines[at] = _damaged(random, lines[at].decode("utf-8", "surrogatepass"))
    return b"\n".join(lines) + b"\n"


def _change(random: Random, node: Any) -> None:
    """Change, delete, rename or add one entry, at any depth."""
    places = list(_places(node))
    if not places:
        return
    owner, key = random.choice(places)
    kind = random.random()
    if kind < 0.65 or isinstance(owner, list):
        owner[key] = copy.deepcopy(random.choice(VALUES))
    elif kind < 0.75:
        del owner[key]
    elif kind < 0.85:
        owner[random.choice((key + "x", key.upper(), "", "[red]", "\x1b[31m", "a.b", "name"))] = owner[key]
    else:
        owner[key] = {"name": owner[key]} if random.random() < 0.5 else [owner[key]]


def _places(node: Any):
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield node, key
        yield from _places(value)


def _damaged(random: Random, text: str) -> bytes:
    """The text with something inserted, cut or replaced by bytes that are not UTF-8."""
    at, kind = random.randrange(len(text) + 1), random.randrange(5)
    before, after = (part.encode("utf-8", "surrogatepass") for part in (text[:at], text[at:]))
    if kind == 0:
        return before
    if kind == 1:
        return before + random.choice(TEXTS).encode() + after
    if kind == 2:
        return before + random.choice((b"\xff", b"\xed\xa0\x80", b"\xc3")) + after
    if kind == 3:
        return before + b"[" * random.choice((30, 3000)) + after
    return text.encode(random.choice(("utf-16", "utf-8-sig", "cp1252")), "replace")


def damage(random: Random, folder: Path) -> str:
    """Damage one file of a folder of files. Returns what was done, for messages."""
    file = random.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"))
    data, kind = (
        file.read_bytes(),
        random.choice(("delete", "cut", "empty", "bit", "text", "json", "list", "binary", "folder", "swap", "append")),
    )
    at = random.randrange(len(data) + 1)
    if kind in ("delete", "folder"):
        file.unlink()
        if kind == "folder":
            file.mkdir()
    elif kind == "swap":
        file.write_bytes(random.choice(sorted(path for path in folder.rglob("*") if path.is_file())).read_bytes())
    else:
        flipped = data[: at - 1] + bytes([data[at - 1] ^ 1 << random.randrange(8)]) + data[at:] if at else data[:-1]
        file.write_bytes(
            {"cut": data[:at], "empty": b"", "bit": flipped, "text": b"not what it was\n", "json": b"{}", "list": b"[1, null]\n",
             "binary": bytes(random.randrange(256) for _ in range(64)), "append": data + b"\x00"}[kind]
        )  # fmt: skip
    return f"{kind} {file.relative_to(folder)}"
