"""Mathematical equality by math-verify in a process of its own, which no answer stops."""

import pytest

from align.config import recipes
from align.errors import RecipeError, UserError
from align.rewards import _math_process
from align.rewards.math import Math
from align.types import Prompt

SECONDS = 2.0


@pytest.fixture(scope="module")
def running():
    return Math(seconds=SECONDS).start()


def prompt(answer: object) -> Prompt:
    return Prompt(id="p", text="", token_ids=(1,), fields={"answer": answer})


@pytest.mark.parametrize(
    ("answer", "response", "right"),
    [
        (r"\frac{1}{2}", r"so \boxed{0.5}", 1),
        ("1/2", r"it is $\frac{1}{2}$", 1),
        (r"We get $x=3$, so \boxed{3}.", "3", 1),
        (3, "The answer is 3.", 1),
        (r"\{1, 2\}", r"\boxed{\{2, 1\}}", 1),
        (r"(1, 2]", r"\boxed{(1, 2]}", 1),
        (r"(1, 2]", r"\boxed{(1, 2)}", 0),
        ("4", r"\boxed{3} and then $4$", 0),  # the box comes first
        ("4", "5", 0),
    ],
)
def test_equal_as_mathematics(running, answer, response, right):
    assert running.score(prompt(answer), response) == {"total": right, "answered": 1, "unjudged": 0}


def test_no_answer_at_all(running):
    assert running.score(prompt("4"), "") == {"total": 0, "answered": 0, "unjudged": 0}
    assert running.score(prompt("4"), "I do not know") == {"total": 0, "answered": 0, "unjudged": 0}


def test_an_answer_that_takes_too_long_is_wrong_and_the_next_is_judged(running):
    running._process._seconds = 0.3
    try:
        assert running.score(prompt("4"), r"\boxed{9^{9^{9^9}}}") == {"total": 0, "answered": 1, "unjudged": 1}
    finally:
        running._process._seconds = SECONDS
    assert running.score(prompt("4"), "4")["total"] == 1


def test_a_start_that_a_time_limit_interrupts_goes_on(running, monkeypatch):
    """The limit of a reward is an exception at any place; what the starting process says then answers no later question."""
    running._process._process.kill()
    running._process._process.wait()
    with monkeypatch.context() as patch, pytest.raises(TimeoutError):
        patch.setattr(running._process, "_reply", lambda *_: (_ for _ in ()).throw(TimeoutError))
        running.score(prompt("4"), "4")
    assert [running.score(prompt("4"), text)["total"] for text in ("4", "5", "4")] == [1, 0, 1]


def test_a_row_without_a_readable_answer_raises(running):
    with pytest.raises(ValueError, match="prompt p: its field answer holds no mathematical answer"):
        running.score(prompt(""), "4")


def test_the_process_has_our_limit_and_no_alarm_of_this_one_is_touched(running, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: pytest.fail("a handler was set"))
    monkeypatch.setattr("signal.setitimer", lambda *_: pytest.fail("an alarm was set"))
    assert running.score(prompt("4"), "4")["total"] == 1


def test_without_the_package_there_is_one_line(monkeypatch):
    monkeypatch.setattr(_math_process, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'align\[math\]'"):
        Math().start()


def test_a_limit_above_that_of_rewards_is_refused():
    node = {"steps": 1, "task": "countdown", "algorithm": "grpo", "reward": {"name": "math", "seconds": 5.0}, "model": {"path": "x"}}
    with pytest.raises(RecipeError, match=r"reward: seconds 5 must be below reward_limits.seconds 5"):
        recipes.build(node)
