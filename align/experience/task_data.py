"""What a task returns, checked: examples, held-out rankings, suites and metrics. An error names the example and the line of the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.config.returned import Returned
from align.tasks import Example, Task
from align.types import Group

WHERE = "task"


def examples(task: Task) -> list[Example]:
    """The training examples. Raises RecipeError for anything else than examples with a text and an id each."""
    return _examples(task, "examples", task.examples())


def notes(task: Task) -> list[str]:
    """Lines for the user about the training data. Raises RecipeError for anything else."""
    found = task.notes()
    if isinstance(found, str) or not all(isinstance(line, str) for line in found):
        Returned(task, "notes", WHERE).refuse(f"{found!r:.60}", "a list of lines")
    return list(found)


def rankings(task: Task) -> list[Example]:
    """The held-out rankings; empty if there are none."""
    return _examples(task, "rankings", task.rankings())


def suites(task: Task, problems: int) -> dict[str, list[Example]]:
    """The held-out problems by suite. Raises RecipeError for a suite without problems."""
    returned, found = Returned(task, "suites", WHERE), task.suites(problems)
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        returned.refuse(f"{found!r:.60}", "a dict from the name of a suite to its examples")
    checked = {name: _examples(task, "suites", held) for name, held in found.items()}
    if empty := [name for name, held in checked.items() if not held]:
        returned.refuse(f"no problem in the suite {empty[0]!r}", "at least one problem in each suite")
    return checked


def checked_metrics(task: Task, suite: str, groups: Sequence[Group]) -> dict[str, float]:
    """The metrics of a suite. Raises RecipeError for anything else than numbers by name."""
    return Returned(task, "judge", WHERE).metrics(task.judge(suite, groups))


def _examples(task: Task, method: str, found: Any) -> list[Example]:
    returned = Returned(task, method, WHERE)
    if not isinstance(found, Sequence) or isinstance(found, str):
        returned.refuse(f"{found!r:.60}", "a list of align.tasks.Example")
    ids: set[str] = set()
    for place, e in enumerate(found):
        wanted = _problem(e)
        if wanted is not None:
            returned.refuse(f"{e!r:.100} at place {place}", wanted)
        if e.id in ids:
            returned.refuse(f"two examples with the id {e.id!r}", "examples with different ids: groups and seeds are derived from them")
        ids.add(e.id)
    return list(found)


def _problem(e: Any) -> str | None:
    """What the example must be, if it is something else."""
    if not isinstance(e, Example):
        return "an align.tasks.Example: Example(id='7', text='1+1=', answer='2')"
    if not (isinstance(e.id, str) and e.id):
        return "an Example whose id is a string"
    if not isinstance(e.text, str) or not (e.text or e.messages):
        return "an Example whose text is a string that is not empty"
    if not isinstance(e.answer, str | None):
        return "an Example whose answer is a string or None"
    if isinstance(e.ranked, str) or not all(isinstance(answer, str) for answer in e.ranked):
        return "an Example whose ranked answers are strings"
    return None if isinstance(e.fields, Mapping) else "an Example whose fields are a dict"
