"""Reads questions, ids and other fields from a row. Errors name file, line, field and the remedy."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from align.errors import RecipeError, UserError
from align.tasks import Example
from align.tasks._rows import Row, shown

Turns = tuple[dict[str, Any], ...]
"""Turns of a conversation: {role, content} and other keys that the chat template reads."""


def missing(row: Row, field: str, what: str, key: str) -> UserError:
    return UserError(
        f"{row.where}: has no field {field!r}; name the one that holds the {what} with task.{key}; "
        f"the row has: {', '.join(row.values) or 'none'}"
    )


def text(row: Row, field: str, value: Any, remedy: str = "put it in quotes") -> str:
    """A string that is not blank."""
    if not isinstance(value, str):
        raise UserError(f"{row.where}: {field} must be a string, not {shown(value)}; {remedy}")
    if not value.strip():
        raise UserError(f"{row.where}: {field} is empty; give it text or delete the row")
    return value


OPTIONS = "chat_template_kwargs"
"""A row's column with options of the chat template, by name."""
TOOLS = "tools"
"""A row's column with the tools of a conversation: a list, or JSON text of one, as datasets store it."""


def template(row: Row, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the chat template must read of a row beside its turns: the task's options, the row's own, and its tools."""
    options = row.values.get(OPTIONS)
    if not isinstance(options, dict | None):
        raise UserError(f'{row.where}: {OPTIONS} must be an object such as {{"enable_thinking": false}}, not {shown(options)}')
    own = {name: value for name in given or {} if (value := row.values.get(name)) is not None}
    found = {**(given or {}), **own, **(options or {})}
    tools = row.values.get(TOOLS)
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise UserError(f"{row.where}: {TOOLS} is a text that is not JSON: {error}; give a list") from error
    if not isinstance(tools, list | str | None):
        raise UserError(f"{row.where}: {TOOLS} must be a list, not {shown(tools)}")
    return found | ({TOOLS: _without_nulls(tools)} if tools else {})


def _without_nulls(value: Any) -> Any:
    """A value without null entries, which tables add for keys of other rows."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


def used(given: Mapping[str, Any] | None, examples: Sequence[Example]) -> Sequence[Example]:
    """The examples. Raises RecipeError if the recipe gives options of the chat template and no example is a conversation."""
    refuse_idle(examples, template=given)
    return examples


def refuse_idle(
    examples: Sequence[Example], *, chat: bool = False, system: str | None = None, template: Mapping[str, Any] | None = None
) -> None:
    """Raises RecipeError for a key of conversations where no example is one."""
    given = {"system": system, "template": template}
    idle = next((key for key, value in given.items() if value), None)
    if idle is not None and not any(e.messages for e in examples):
        raise RecipeError(
            f"task.{idle}", "changes nothing: no prompt is a conversation (a list of turns); delete the key, or set task.chat: true"
        )


def turns(row: Row, field: str, value: Any) -> Turns:
    """A conversation, without null entries, which tables add for fields of other rows."""
    if not isinstance(value, list) or not value:
        raise UserError(f'{row.where}: {field} must be a list of turns {{"role": ..., "content": ...}}, not {shown(value)}')
    value = list(value)
    for i, turn in enumerate(value):
        if isinstance(turn, dict) and turn.get("tool_calls") and turn.get("content") is None:
            turn = value[i] = {**turn, "content": ""}
        if not (isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)):
            raise UserError(f'{row.where}: {field}[{i}] must be a turn {{"role": ..., "content": ...}}, both strings, not {shown(turn)}')
    return tuple({k: v for k, v in turn.items() if v is not None} for turn in value)


def question(row: Row, field: str, value: Any) -> tuple[str, Turns]:
    """The prompt, and its turns if it is a conversation."""
    if not isinstance(value, list):
        return text(row, field, value, 'or a list of turns {"role": ..., "content": ...}'), ()
    return asked(row, field, turns(row, field, value))


def asked(row: Row, field: str, conversation: Turns) -> tuple[str, Turns]:
    """A conversation that ends before the assistant's turn: as readable text, and as turns."""
    text(row, f"the last turn of {field}", conversation[-1]["content"])
    if conversation[-1]["role"] == "assistant":
        raise UserError(f"{row.where}: {field} ends with a turn by the assistant, so there is nothing to answer; end it before")
    return readable(conversation), conversation


def readable(conversation: Turns) -> str:
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in conversation)


def with_turns(asks: str, messages: Turns, *, chat: bool, system: str | None) -> tuple[str, Turns]:
    """A prompt as readable text and as turns. Plain text stays what it is, or becomes the user's turn with `chat`; a conversation without
    a system's turn gets `system`."""
    if not messages:
        if not chat:
            return asks, ()
        messages = ({"role": "user", "content": asks},)
    if system and messages[0]["role"] != "system":
        messages = ({"role": "system", "content": system}, *messages)
    return readable(messages), messages


def name(row: Row, field: str | None) -> str:
    """The row's id: a string or an integer, or else its number."""
    value = None if field is None else row.values.get(field)
    if not isinstance(value, str | int | None) or isinstance(value, bool):
        raise UserError(f"{row.where}: {field} must be a string or an integer, not {shown(value)}")
    return row.number if value is None else str(value)


def others(row: Row, used: Collection[str | None]) -> dict[str, Any]:
    """The other fields of the row, which the reward gets with the prompt."""
    return {k: v for k, v in row.values.items() if k not in used}


def known(path: str, rows: Sequence[Row], key: str, field: str) -> None:
    """Raises UserError for a field name in the recipe that no row has."""
    if not any(field in row.values for row in rows):
        raise UserError(f"{path}: no row has the field {field!r} that task.{key} names; the first row has: {', '.join(rows[0].values)}")


def distinct(examples: Sequence[Example], field: str | None) -> list[Example]:
    """The examples. Raises UserError if two have the same id."""
    seen: dict[str, Example] = {}
    for example in examples:
        if example.id in seen:
            other = seen[example.id].where.rpartition(", ")[2]
            raise UserError(f"{example.where}: has the same {field or 'number'} as {other}, {example.id!r}; ids must differ")
        seen[example.id] = example
    return list(examples)
