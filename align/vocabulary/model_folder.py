"""Checks a model's folder before any weights are loaded: what would otherwise fail in a step, or when a trained model is saved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig

from align.errors import UserError
from align.tasks import Example
from align.vocabulary import generation
from align.vocabulary.answer_text import AnswerText
from align.vocabulary.ends import end_ids, turn_end
from align.vocabulary.files import load_config
from align.vocabulary.spelled import Spelled, class_tokens

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def checked(folder: str, tokenizer: Any, examples: Iterable[Example] = ()) -> list[str]:
    """Lines for the user about what this model's tokens make of a run. Args: examples: every one that the run reads.

    Raises UserError if an id that the tokenizer, the config, the generation config or an example gives has no row in the embedding, for a
    generation config that no model can be loaded with, and if transformers cannot write config and tokenizer back.
    """
    config = load_config(folder)
    rows = refuse_ids_without_rows(folder, tokenizer, config)
    _refuse_texts(tokenizer, rows, examples)
    saved = generation.read(folder)
    _refuse_ids(folder, generation.FILE, saved, rows)
    _refuse_unwritable(folder, config, tokenizer)
    ends = end_ids(tokenizer, saved.eos_token_id)
    return [*_of_generation(folder, saved), *_of_turns(tokenizer, saved, ends), *_of_padding(tokenizer, rows), *_of_tags(tokenizer, saved)]


def refuse_ids_without_rows(folder: str, tokenizer: Any, config: PreTrainedConfig) -> int:
    """The number of rows of the embedding. Raises UserError if the tokenizer or the config has an id beyond them.

    A token that only the tokenizer's class adds when it is loaded, and that is neither begin, end nor padding, may be beyond them: no text
    but its own name makes it.
    """
    text = config.get_text_config(decoder=True)
    rows = text.vocab_size
    unused = class_tokens(tokenizer)
    over = sorted((i, t) for t, i in tokenizer.get_vocab().items() if i >= rows and t not in unused)
    if over:
        names = ", ".join(f"{t} is {i}" for i, t in over[:3]) + (f" and {len(over) - 3} more" if len(over) > 3 else "")
        raise UserError(
            f"model: {folder}: the tokenizer has {len(tokenizer)} tokens and the model has embeddings for {rows}: {names}. Take the "
            "tokenizer that belongs to the model, or enlarge the model once and save both: "
            "model.resize_token_embeddings(len(tokenizer))"
        )
    for part in {id(c): c for c in (config, text)}.values():
        _refuse_ids(folder, "config.json", part, rows)
    return rows


def _refuse_texts(tokenizer: Any, rows: int, examples: Iterable[Example]) -> None:
    over = {t: i for t, i in tokenizer.get_vocab().items() if i >= rows}
    for e in examples if over else ():
        texts = [e.text, e.answer or "", *e.ranked, *(str(turn.get("content")) for turn in e.messages)]
        found = next((t for t in over if any(t in text for text in texts)), None)
        if found is not None:
            raise UserError(
                f"{e.place}: has the token {found}, which is {over[found]} to the tokenizer, and the model has embeddings for {rows} "
                "tokens; take it out of the row, or enlarge the model once and save it: model.resize_token_embeddings(len(tokenizer))"
            )


def _refuse_ids(folder: str, file: str, config: Any, rows: int) -> None:
    for key in IDS:
        given = getattr(config, key, None)  # transformers' configs have these keys where a model has such a token
        for i in [given] if isinstance(given, int) else given or []:
            # A negative padding id counts from the end of an embedding, and some old folders have -1.
            if i >= rows or (i < 0 and key == "eos_token_id"):
                raise UserError(
                    f"model: {Path(folder) / file}: {key} is {i}, and the model has embeddings for {rows} tokens, 0 to {rows - 1}; "
                    "correct it there"
                )


def _refuse_unwritable(folder: str, config: PreTrainedConfig, tokenizer: Any) -> None:
    with TemporaryDirectory() as scratch:
        for part in (config, tokenizer):
            try:
                part.save_pretrained(scratch)
            except Exception as error:  # whatever it is, it would come after training
                raise UserError(
                    f"model: {folder}: transformers cannot write its {'tokenizer' if part is tokenizer else 'config.json'} back, so a "
                    f"trained model could not be saved: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
                ) from error


def name_turn_end(folder: str) -> None:
    """Make the token that ends a turn the end token of the saved tokenizer, for a model that was trained on conversations.

    A template that writes the tokenizer's end token is left as it is: it would write another text.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    end, file = turn_end(tokenizer), Path(folder) / "tokenizer_config.json"
    if end is not None and end != tokenizer.eos_token_id and "eos_token" not in tokenizer.get_chat_template():
        # Saving the tokenizer would add the tokens of its class to it.
        config = json.loads(file.read_text())
        file.write_text(json.dumps(config | {"eos_token": tokenizer.convert_ids_to_tokens(end)}, indent=2, ensure_ascii=False) + "\n")


def _of_generation(folder: str, saved: Any) -> Iterator[str]:
    left_out = generation.writable(saved)[1]
    if left_out:
        file = generation.FILE if (Path(folder) / generation.FILE).is_file() else "config.json"
        values = ", ".join(f"{name}: {getattr(saved, name)}" for name in left_out)
        yield (
            f"model: {Path(folder) / file} has values that contradict the others, and transformers refuses to save them ({values}): "
            "the trained model is saved without them. Sampling in training is set by `sampling` alone"
        )


def _of_turns(tokenizer: Any, saved: Any, ends: list[int]) -> Iterator[str]:
    end, listed = turn_end(tokenizer), saved.eos_token_id
    if end is None or end == tokenizer.eos_token_id or end in ([listed] if isinstance(listed, int) else listed or []):
        return
    shown = [f"{tokenizer.convert_ids_to_tokens(i)} ({i})" for i in ends]
    yield (
        f"model: a turn of the chat template ends with {shown[0]}, which is no end token of this model ({', '.join(shown[1:]) or 'none'}): "
        "answers end there too, and the trained model's generation_config.json says so"
    )


def _of_padding(tokenizer: Any, rows: int) -> Iterator[str]:
    missing = Spelled.of(tokenizer, rows).missing(rows)
    if missing:
        yield f"model: {missing} of {rows} ids have no token: they are never drawn, and the learner leaves them out"


def _of_tags(tokenizer: Any, saved: Any) -> Iterator[str]:
    tags = AnswerText(tokenizer, saved.eos_token_id).tags
    if tags:
        yield f"model: rewards read the special tokens {', '.join(tags)} as text"
