"""Reads the rows of a user's file or dataset, each with its place. Errors name the place and the remedy.

JSON lines are not read by `datasets`, because its reader converts a text like "2020-01-01" to a date, fills in missing fields, and
cannot name the line that is not JSON.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.config.paths import paths_start
from align.errors import UserError

FILES = (".jsonl", ".json", ".parquet")
DEEPEST = 100
"""Lists and objects inside each other in a row."""
BRACKETS = re.compile(rb'\\.|["\[\]{}]', re.DOTALL)
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Row:
    where: str
    """`pairs.jsonl, line 3`, lines from 1; `org/data (train), row 3`, rows from 0 as `datasets` counts."""
    number: str
    """`line-3` or `row-3`: the id of a row without one."""
    values: dict[str, Any]
    """JSON values only; None for a missing value, which a table may hold as NaN."""


def read(path: str, split: str | None = None, subset: str | None = None) -> list[Row]:
    """The rows of a JSONL or Parquet file, of a folder that `datasets` loads, or of a dataset of the Hugging Face Hub.

    Args: split: of a dataset, `train` by default, or a slice such as `train[:1000]`; subset: its configuration.
    Raises UserError if the data cannot be read, do not exist, or have no rows.
    """
    if os.path.isfile(path):  # Path raises for a name that is too long
        key = "split" if split is not None else "subset"
        if split is not None or subset is not None:
            raise UserError(f"{path}: is a file, which has no {key}s; delete the key that names one")
        rows = _parquet(path) if path.endswith(".parquet") else _json_lines(path)
    else:
        rows = _dataset(path, split or "train", subset)
    if not rows:
        raise UserError(f"{path}: has no rows; write one JSON object a line")
    return rows


def refuse_overlap(path: str, split: str | None, eval_path: str | None, eval_split: str | None) -> None:
    """Raises ValueError if the held-out rows would be the training rows."""
    if (eval_path or eval_split) and (eval_path or path, eval_split or "train") == (path, split or "train"):
        raise ValueError(f"the held-out rows would be those that are trained on, {path}: name another eval_path or eval_split")


def shown(value: Any) -> str:
    """The start of a value, for messages."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:40] + "..."


def _json_lines(path: str) -> list[Row]:
    rows = []
    for line, raw in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if not raw.strip():
            continue
        where = f"{path}, line {line}"
        _refuse_depth(raw, where)
        try:
            row = json.loads(raw, parse_constant=_no_json_value)
        except (ValueError, RecursionError) as error:
            problem = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise UserError(f"{where}: is not JSON: {problem}; write one object a line") from error
        _refuse_surrogates(raw, row, where)
        if not isinstance(row, dict):
            raise UserError(f'{path}, line {line}: is not an object but {shown(row)}; write {{"prompt": ...}}')
        rows.append(Row(f"{path}, line {line}", f"line-{line}", row))
    return rows


def _no_json_value(name: str) -> Any:
    """For NaN and Infinity, which Python writes and no other reader of JSON takes: rewards and templates get JSON values only."""
    raise ValueError(f"{name} is no value of JSON: write null")


def _refuse_depth(raw: bytes, where: str) -> None:
    """Raises UserError for brackets nested deeper than any data: reading them would exhaust the stack."""
    depth, inside = 0, False
    if raw.count(b"[") + raw.count(b"{") <= DEEPEST:
        return
    for match in BRACKETS.finditer(raw):
        token = match[0]
        inside = not inside if token == b'"' else inside
        depth += 0 if inside or len(token) > 1 or token == b'"' else 1 if token in b"[{" else -1
        if depth > DEEPEST:
            raise UserError(f"{where}: has lists or objects nested deeper than {DEEPEST}; flatten them, or delete the row")


def _refuse_surrogates(raw: bytes, row: Any, where: str) -> None:
    """Raises UserError for half of a surrogate pair, which is no character: no tokenizer and no file takes it."""
    if SURROGATE.search(raw):
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start].encode("unicode_escape").decode()
            raise UserError(f"{where}: has {half}, half of a surrogate pair, which is no character; write both halves or none") from error


def _parquet(path: str) -> list[Row]:
    datasets = _library()
    try:
        return _plain(datasets.Dataset.from_parquet(path), path)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{path}: is no Parquet file that can be read: {_first_line(error)}") from error


def _dataset(path: str, split: str, subset: str | None) -> list[Row]:
    local = os.path.isdir(path)
    if not local and (path.endswith(FILES) or not HUB_NAME.fullmatch(path)):
        raise _missing(path)
    datasets = _library()
    try:
        return _plain(datasets.load_dataset(path, subset, split=split), f"{path} ({split})")
    except (datasets.exceptions.DataFilesNotFoundError, datasets.data_files.EmptyDatasetError) as error:
        raise _missing(path) from error
    # Raised by `datasets` for an unreachable Hub, a missing split or subset, and files of other formats.
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if local:
            raise UserError(f"{path}: cannot be loaded as a dataset: {_first_line(error)}") from error
        raise UserError(
            f"{path}: cannot be fetched from the Hugging Face Hub: {_first_line(error)}; if this machine has no network, fetch it "
            f"on one that has (hf download --repo-type dataset {path} --local-dir FOLDER) and give the local folder or file: "
            f"task.path=FOLDER ({paths_start()})"
        ) from error


def _missing(path: str) -> UserError:
    return UserError(
        f"{path}: there is no such file or folder of data ({paths_start()}; a dataset of the Hugging Face Hub is named owner/name)"
    )


def _library() -> Any:
    # The import takes seconds, and most runs read no dataset.
    import datasets  # noqa: PLC0415
    import datasets.data_files  # noqa: PLC0415

    datasets.disable_progress_bars()
    return datasets


def _first_line(error: Exception) -> str:
    text = str(error.__cause__ or error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _plain(dataset: Iterable[dict[str, Any]], source: str) -> list[Row]:
    rows = []
    for i, values in enumerate(dataset):
        where = f"{source}, row {i}"
        plain = {}
        for name, value in values.items():
            try:
                plain[name] = json.loads(json.dumps(value, default=_dated), parse_constant=_of_table)
            except TypeError as error:
                raise UserError(f"{where}: {name} holds a {error}, which JSON cannot hold; remove the column") from error
            except OverflowError as error:
                raise UserError(f"{where}: {name} holds {error}, which JSON cannot hold; write a number, or null") from error
        rows.append(Row(where, f"row-{i}", plain))
    return rows


def _of_table(constant: str) -> None:
    """A number of a table that is no value of JSON: NaN is how a table marks a missing value. Raises OverflowError for an infinity."""
    if constant != "NaN":
        raise OverflowError(constant)


def _dated(value: Any) -> str:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(type(value).__name__)
