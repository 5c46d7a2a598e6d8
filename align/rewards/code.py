from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Interval

from align.config.parts import Setting
from align.config.ranges import Positive
from align.rewards import Answer, Reward
from align.rewards._code_tests import program_of, tests_of
from align.rewards._sandbox import ISOLATIONS, Sandbox
from align.types import Prompt


@dataclass(frozen=True)
class Code(Reward):
    """Runs the Python program in a response in a sandbox: 1 if it passes every test of its row, else 0. The part `passed` is the share.

    The program is the last fenced block of the response, or all of it without one, and has the standard library alone. Each test has a
    process of its own, without network, files, environment or other processes (docs/sandbox.md). The row's field has asserts, such as
    `["assert add(1, 2) == 3"]`, or inputs with outputs, `[{"input": "1 2", "output": "3"}]`. An answer that exceeds a limit fails the
    test. A program shares its process with an assert, and one that looks for it could fake its success; outputs are compared outside.
    """

    field: str = "tests"
    """The row's field with the tests."""
    partial: bool = False
    """Whether the reward is the share of passed tests. Otherwise testing ends with the first failure, and `passed` counts up to there."""
    isolation: str = "namespaces"
    """`namespaces`: of Linux; a machine that allows none is refused. `limits`: resource limits alone; programs have the network, and read
    and write what their user may."""
    seconds: Positive = 4.0
    """Wall time of all tests of an answer, below `reward_limits.seconds`."""
    memory_mb: Annotated[int, Interval(ge=64, le=2**20)] = 512
    """Address space of each process, and the size of all files that a program writes."""
    processes: Annotated[int, Interval(ge=1, le=1024)] = 16
    """Processes and threads at once."""

    def __post_init__(self):
        if self.isolation not in ISOLATIONS:
            raise ValueError(f"isolation must be {' or '.join(ISOLATIONS)}, not {self.isolation!r}")

    @property
    def required_fields(self) -> Collection[str]:
        return (self.field,)

    @property
    def own_seconds(self) -> float:
        return self.seconds

    def refuse(self, setting: Setting) -> str | None:
        limit = setting.recipe.reward_limits.seconds
        if self.seconds >= limit:
            return f"seconds {self.seconds:g} must be below reward_limits.seconds {limit:g}, or a slow answer fails instead of counting 0"
        return None

    def refuse_row(self, fields: Mapping[str, Any]) -> str | None:
        try:
            tests_of(fields[self.field])
        except ValueError as error:
            return f"its field {self.field}: {error}"
        return None

    def start(self) -> Reward:
        """Raises UserError where this machine does not allow the isolation."""
        self._sandbox().start()
        return self

    def final_answer(self, response: str) -> str | None:
        return program_of(response).strip() or None

    def score(self, prompt: Prompt, response: str) -> Answer:
        """Raises ValueError for a row without tests, and SandboxFailed."""
        try:
            tests = tests_of(prompt.fields.get(self.field))
        except ValueError as error:
            raise ValueError(f"prompt {prompt.id}: its field {self.field}: {error}") from error
        program, sandbox, deadline, passed = program_of(response), self._sandbox(), time.monotonic() + self.seconds, 0
        if not program.strip():
            return {"total": 0.0, "passed": 0.0}
        for test in tests:
            remaining = deadline - time.monotonic()
            if remaining > 0 and test.passed(program, sandbox, remaining):
                passed += 1
            elif not self.partial:
                break
        share = passed / len(tests)
        return {"total": share if self.partial else float(share == 1), "passed": share}

    def _sandbox(self) -> Sandbox:
        return Sandbox(self.isolation, self.memory_mb * 2**20, self.processes)
