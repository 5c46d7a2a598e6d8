"""The tests of a row for a program, and how one is run: an assert, or an input with its output."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.rewards._sandbox import Sandbox

FENCED = re.compile(r"```[ \t]*(?:python|py)?[ \t]*[0-9.]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
SHAPES = "a list of asserts (strings), a list of {input, output}, or {inputs: [...], outputs: [...]}"
WITH_ASSERT = """\
import json, sys
given = json.loads(sys.stdin.buffer.readline())
names = {"__name__": "__main__"}
exec(compile(given["program"], "answer.py", "exec"), names)
exec(compile(given["test"], "test.py", "exec"), names)
sys.stdout.flush()
sys.stdout.write(given["mark"])
"""
WITH_INPUT = """\
import json, sys
program = json.loads(sys.stdin.buffer.readline())
exec(compile(program, "answer.py", "exec"), {"__name__": "__main__"})
"""


@dataclass(frozen=True)
class Test:
    """One test."""

    code: str = ""
    """Statements that raise if the program is wrong; empty for a test by input and output."""
    stdin: str = ""
    stdout: str = ""

    def passed(self, program: str, sandbox: Sandbox, seconds: float) -> bool:
        """Whether the program passes. Raises SandboxFailed."""
        return self._holds(program, sandbox, seconds) if self.code else self._prints(program, sandbox, seconds)

    def _holds(self, program: str, sandbox: Sandbox, seconds: float) -> bool:
        # Only code that comes to its end writes the mark: an exit before the assert is no success.
        mark = secrets.token_hex(16)
        given = json.dumps({"program": program, "test": self.code, "mark": mark}).encode() + b"\n"
        ended = sandbox.run(["-c", WITH_ASSERT], given, seconds)
        return ended.code == 0 and ended.output.endswith(mark.encode())

    def _prints(self, program: str, sandbox: Sandbox, seconds: float) -> bool:
        given = json.dumps(program).encode() + b"\n" + self.stdin.encode("utf-8", "replace")
        ended = sandbox.run(["-c", WITH_INPUT], given, seconds)
        return ended.code == 0 and _lines(ended.output.decode("utf-8", "replace")) == _lines(self.stdout)


def _lines(text: str) -> list[str]:
    """Without white space at the ends of lines and of the text, as judges of programming contests compare."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def program_of(response: str) -> str:
    """The last fenced block of Python in a response; without one, the whole response."""
    blocks = FENCED.findall(response)
    return blocks[-1] if blocks else response


def tests_of(value: Any) -> list[Test]:
    """The tests that a row's field holds, also as JSON text. Raises ValueError naming the shapes that a field may have."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = [value]
    if isinstance(value, Mapping) and {"inputs", "outputs"} <= value.keys():
        pairs = zip(value["inputs"], value["outputs"], strict=True)
        value = [{"input": given, "output": wanted} for given, wanted in pairs]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"tests must be {SHAPES}, not {value!r:.60}")
    return [_test(one) for one in value]


def _test(one: Any) -> Test:
    if isinstance(one, str) and one.strip():
        return Test(code=one)
    if isinstance(one, Mapping) and isinstance(one.get("input"), str) and isinstance(one.get("output"), str):
        return Test(stdin=one["input"], stdout=one["output"])
    raise ValueError(f"tests must be {SHAPES}; one of them is {one!r:.60}")
