"""Programs in responses, judged by asserts and by what they print."""

import json
from typing import Any

import pytest

from align.config import recipes
from align.config.nodes import build_part
from align.config.schema import RewardLimits
from align.errors import RecipeError, UserError
from align.rewards._code_tests import Test as RowTest
from align.rewards._code_tests import program_of
from align.rewards._code_tests import tests_of as of_row
from align.rewards._sandbox import Sandbox, SandboxFailed
from align.rewards.code import Code
from align.testing import check, rewards
from align.types import Prompt

ADDS = "def add(a, b):\n    return a + b\n"
ASSERTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]


def score(program: str, tests: object, **keys) -> Any:
    return Code(**keys).score(Prompt(id="p", text="", token_ids=(1,), fields={"tests": tests}), program)


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("```python\na = 1\n```\nor\n```py\na = 2\n```", "a = 2\n"),
        ("```\na = 3\n```", "a = 3\n"),
        ("a = 4", "a = 4"),
        ("```python\na = 5", "```python\na = 5"),
    ],
)
def test_the_program_in_a_response(response, program):
    assert program_of(response) == program


@pytest.mark.parametrize(
    ("value", "tests"),
    [
        (ASSERTS[0], [RowTest(code=ASSERTS[0])]),
        (json.dumps(ASSERTS), [RowTest(code=a) for a in ASSERTS]),
        ({"inputs": ["1", "2"], "outputs": ["3", "4"]}, [RowTest(stdin="1", stdout="3"), RowTest(stdin="2", stdout="4")]),
        ([{"input": "1", "output": "3"}], [RowTest(stdin="1", stdout="3")]),
    ],
)
def test_the_tests_of_a_row(value, tests):
    assert of_row(value) == tests


@pytest.mark.parametrize("value", [None, [], 3, [3], [{"input": "1"}], {"inputs": ["1"]}, {"inputs": ["1"], "outputs": []}, [""]])
def test_what_is_no_test_raises_at_its_prompt(value):
    with pytest.raises(ValueError, match="prompt p: its field tests: "):
        score(ADDS, value)


def test_asserts():
    assert score(f"Sure:\n```python\n{ADDS}```", ASSERTS) == {"total": 1, "passed": 1}
    assert score(ADDS, [*ASSERTS, "assert add(1, 1) == 3"], partial=True) == {"total": pytest.approx(2 / 3), "passed": pytest.approx(2 / 3)}
    assert score(ADDS, [*ASSERTS, "assert add(1, 1) == 3"]) == {"total": 0, "passed": pytest.approx(2 / 3)}
    assert score(ADDS, ["assert add(1, 1) == 3", *ASSERTS]) == {"total": 0, "passed": 0}
    assert score("", ASSERTS) == {"total": 0, "passed": 0}


def test_inputs_and_outputs():
    echo = [{"input": "1 2\n", "output": "3"}, {"input": "5 5\n", "output": "10\n"}]
    assert score("print(sum(map(int, input().split())))  ", echo)["total"] == 1
    assert score("import sys\nprint(sum(map(int, sys.stdin.read().split())))\nprint()", echo)["total"] == 1
    assert score("print(3)", echo, partial=True)["total"] == 0.5
    assert score("print(33)", echo, partial=True)["total"] == 0


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "add = lambda a, b: exit()",
        "print('ok'); raise SystemExit",
        "not python",
        "1/0",
    ],
)
def test_an_end_before_the_assert_is_no_success(program):
    assert score(program, ASSERTS[:1])["total"] == 0


def test_a_loop_fails_its_test_and_those_after_it():
    assert score("while True: pass", ASSERTS, seconds=0.2, partial=True) == {"total": 0, "passed": 0}


def test_a_sandbox_that_fails_is_no_reward_of_0(monkeypatch):
    def fail(*_):
        raise SandboxFailed("unshare: no space left")

    monkeypatch.setattr(Sandbox, "run", fail)
    with pytest.raises(SandboxFailed):
        score(ADDS, ASSERTS)
    with pytest.raises(UserError, match="isolation: limits"):
        Code().start()


def test_keys_are_checked():
    with pytest.raises(RecipeError, match="reward: isolation must be namespaces or limits, not 'docker'"):
        build_part("reward", {"name": "code", "isolation": "docker"}, "reward")
    node = {"steps": 1, "task": "countdown", "algorithm": "grpo", "reward": {"name": "code", "seconds": 6.0}, "model": {"path": "x"}}
    with pytest.raises(RecipeError, match=r"reward: seconds 6 must be below reward_limits.seconds 5"):
        recipes.build(node)


def test_it_conforms(monkeypatch):
    monkeypatch.setattr(rewards, "HOSTILE", ("(" * 3000, "\ud800", rewards.HOSTILE[-1]))
    monkeypatch.setattr(rewards, "LIMITS", RewardLimits(seconds=30.0))
    findings = check("reward", "code", prompts=rewards.PROMPTS[:1], field="answer", seconds=25.0)
    assert {f.name: f.found for f in findings if not f.passed} == {}
