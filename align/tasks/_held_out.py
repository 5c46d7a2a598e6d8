"""Holds out a share of the rows by a hash of the prompt."""

from __future__ import annotations

import hashlib
import json

from align.tasks import Example


def is_held_out(example: Example, share: float) -> bool:
    """Whether the prompt's hash is among the lowest `share`. It depends on the prompt alone: rows with one prompt are on one side, and a
    row that is appended moves no other. A system turn, which the recipe may add, does not count."""
    asked = [turn for turn in example.messages if turn["role"] != "system"]
    alone = len(asked) == 1 and asked[0].keys() == {"role", "content"}
    prompt = asked[0]["content"] if alone else json.dumps(asked, sort_keys=True) if asked else example.text
    digest = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
