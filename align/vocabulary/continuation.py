"""The tokens of a text that continues another.

A sentencepiece tokenizer puts a word-start space before every text (`▁`), so an answer that is tokenized by itself would begin with a
space that no engine draws. Its tokens are those of prompt and answer together, behind the prompt's. Where the two merge at the boundary,
they are those of the answer without the added space. Tokenizers that add nothing (byte-level BPE) read the answer by itself.
A tokenizer without a `tokenizers` backend reads an answer by itself where it merges with its prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

STRIPS_SPACE = ("WhitespaceSplit", "Whitespace", "BertPreTokenizer")
"""Pre-tokenizers that drop spaces, so that a later Metaspace marks the start of every word (T5)."""


class Continuation:
    """Tokenizes texts as continuations.

    Args: split_special_tokens: a text cannot spell a special token; tags: special tokens that it can spell even so.
    """

    def __init__(self, tokenizer: Any, *, split_special_tokens: bool = False, tags: Sequence[str] = ()):
        self._tags = {tag: tokenizer.convert_tokens_to_ids(tag) for tag in tags}
        self._at_tags = re.compile(f"({'|'.join(map(re.escape, tags))})") if tags else None
        self._tokenizer, self._options = tokenizer, {"add_special_tokens": False, "split_special_tokens": split_special_tokens}
        self._bare: Tokenizer | None = None
        self._by_word, self._adds_nothing = False, False
        if tokenizer.is_fast:
            node = json.loads(tokenizer.backend_tokenizer.to_str())
            found = [_strip(node, key) for key in ("normalizer", "pre_tokenizer")]
            self._adds_nothing = not any(found)
            if any(found):
                self._by_word = any(step["type"] in STRIPS_SPACE for step in _steps(node["pre_tokenizer"]))
                self._bare = Tokenizer.from_str(json.dumps(node))
                self._bare.no_padding()
                self._bare.no_truncation()
                self._bare.encode_special_tokens = split_special_tokens

    def many(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        """The ids of each second text after the first."""
        if self._at_tags is None:
            return self._plain(pairs)
        return [self._with_tags(before, self._at_tags.split(text)) for before, text in pairs]

    def _with_tags(self, before: str, pieces: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            ids += [self._tags[piece]] if piece in self._tags else self._plain([(before, piece)])[0] if piece else []
            before += piece
        return ids

    def _plain(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        if self._adds_nothing:
            return self._encoded([text for _, text in pairs])
        before, whole = self._encoded([a for a, _ in pairs]), self._encoded([a + b for a, b in pairs])
        return [
            ids[len(prompt) :] if ids[: len(prompt)] == prompt else self._without_space(text)
            for (_, text), prompt, ids in zip(pairs, before, whole, strict=True)
        ]

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer(list(texts), **self._options)["input_ids"] if texts else []

    def _without_space(self, text: str) -> list[int]:
        if self._bare is None:
            return self._encoded([text])[0]
        head, rest = text, ""
        if self._by_word:
            head = text[: next((i for i, c in enumerate(text) if c.isspace()), len(text))]
            rest = text[len(head) :]
        ids = self._bare.encode(head, add_special_tokens=False).ids if head else []
        return [*ids, *(self._encoded([rest])[0] if rest else [])]


def _steps(node: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, those of nested sequences in order."""
    if node is None:
        return []
    inner = node.get("normalizers", node.get("pretokenizers"))
    return [node] if inner is None else [step for part in inner for step in _steps(part)]


def _strip(tokenizer: dict[str, Any], key: str) -> bool:
    """Turn off what puts a space before a text; returns whether something does."""
    found = False
    for step in _steps(tokenizer[key]):
        if step["type"] == "Metaspace" and step.get("prepend_scheme") != "never":
            step["prepend_scheme"] = "never"
            found = True
        elif step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            step["add_prefix_space"] = False
            found = True
        elif step["type"] == "Prepend":
            step["prepend"] = ""
            found = True
    return found
