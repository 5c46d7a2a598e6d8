"""A reward that raises, hangs or answers nonsense costs its own sample, and the first failure is told where it happened."""

import inspect
import re
import signal
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from align.config.schema import RewardLimits
from align.errors import UserError
from align.rewards import Reward
from align.types import Episode, Group, Prompt, Rewards
from align.workers.deadline import DeadlinePassed
from align.workers.reward_runner import concatenate_rewards, failed_rewards, run_rewards

DROP = RewardLimits(seconds=0.2)
SCORE = RewardLimits(seconds=0.2, on_failure="score", failure_score=-1.5)


class Programmed(Reward):
    """Answers by calling a function of the response."""

    def __init__(self, function: Callable[[str], Any]):
        self.function = function

    def score(self, prompt: Prompt, response: str) -> Any:
        return self.function(response)


def group(name: str, *responses: str) -> Group:
    return Group(
        prompt=Prompt(id=name, text="", token_ids=(1,)),
        episodes=tuple(Episode.single_turn(np.zeros(1, np.int32), text) for text in responses),
    )


def run(function: Callable[[str], Any], *responses: str, limits: RewardLimits = DROP) -> Rewards:
    return run_rewards(Programmed(function), limits, [group(f"p{i}", r) for i, r in enumerate(responses)])


def fail(error: BaseException) -> float:
    raise error


def forever() -> float:
    while True:
        time.sleep(5)


def stubborn() -> float | None:
    """Swallows the time-out, as a bare `except:` does, and answers as if nothing had happened."""
    try:
        time.sleep(5)
    except BaseException:
        return 1.0


def caught() -> float | None:
    try:
        time.sleep(5)
    except Exception:
        return 1.0


def own_alarm() -> float:
    """A reward with a time limit of its own, by the same signal."""
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.alarm(60)
    signal.alarm(0)
    return 1.0


def test_numbers_keep_the_order_of_the_rollouts():
    groups = [group("a", "1", "22"), group("b"), group("c", "333")]
    rewards = run_rewards(Programmed(len), DROP, groups)
    assert rewards.values.tolist() == [1, 2, 3] and rewards.values.dtype == np.float32
    assert (rewards.failed, rewards.first_failure, rewards.parts) == (0, None, {})


def test_no_answers_at_all():
    assert run_rewards(Programmed(len), DROP, []).values.shape == (0,)


@pytest.mark.parametrize("value", [True, np.bool_(True), np.float64(1.0), np.int32(1), 1])
def test_what_counts_as_a_number(value):
    assert run(lambda _: value, "x").values.tolist() == [1.0]


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda _: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda _: fail(ValueError("two\nlines")), "ValueError: two ("),
        (lambda _: fail(ValueError("x" * 5000)), "ValueError: " + "x" * 200 + "..."),
        (lambda _: fail(ValueError()), "ValueError: (no message)"),
        (lambda _: fail(SystemExit(3)), "SystemExit: 3"),
        (lambda _: fail(CancelledError("task")), "CancelledError: task"),  # which is no Exception, as a panic of Rust code is none
        (lambda _: forever(), "took longer than 0.2 s"),
        (lambda _: caught(), "took longer than 0.2 s"),
        (lambda _: stubborn(), "took longer than 0.2 s"),
        (lambda _: float("nan"), "returned nan, which is not a finite float32"),
        (lambda _: 1e39, "returned 1e+39, which is not a finite float32"),
        (lambda _: "1.0", "returned a str; a reward is a number"),
        (lambda _: None, "returned a NoneType; a reward is a number"),
        (lambda _: {"exact": 1.0, "style": 0.5}, "returned parts without `total`, only: exact, style"),
        (lambda _: {"total": 1.0, "style": "good"}, "returned, as 'style', a str"),
        (lambda _: {"total": float("inf")}, "returned, as 'total', inf"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_failure_costs_its_own_sample_and_is_told(function, told):
    """Three answers; the middle one fails."""
    rewards = run(lambda r: function(r) if r == "bad" else 1.0, "good", "bad", "good")
    np.testing.assert_array_equal(rewards.values, np.array([1, np.nan, 1], np.float32))
    assert rewards.failed == 1
    assert rewards.first_failure.startswith("prompt p1: ") and told in rewards.first_failure


def test_a_failed_sample_may_have_a_score_instead():
    rewards = run(lambda r: 1 / len(r), "xx", "", limits=SCORE)
    assert rewards.values.tolist() == [0.5, -1.5] and rewards.failed == 1


def test_the_first_failure_is_the_first():
    rewards = run(lambda r: {}[r], "a", "b")
    assert rewards.failed == 2 and rewards.first_failure.startswith("prompt p0: KeyError: 'a'")


def test_a_failure_is_told_with_the_line_of_the_reward_and_not_of_what_it_called():
    def function(_):
        return np.linalg.inv(np.zeros((2, 2)))

    rewards = run(function, "x")
    assert rewards.first_failure == f"prompt p0: LinAlgError: Singular matrix ({__file__}:{function.__code__.co_firstlineno + 1})"


def test_nonsense_is_told_with_the_line_of_the_class():
    line = inspect.getsourcelines(Programmed)[1]
    assert run(lambda _: None, "x").first_failure.endswith(f"({__file__}:{line})")


def test_parts_are_kept_and_missing_ones_are_nan():
    rewards = run(lambda r: {"total": 2, "a": 1, "b": 3} if r == "ab" else {"total": 5, "a": 4} if r == "a" else 1 / 0, "ab", "a", "")
    np.testing.assert_array_equal(rewards.values, np.array([2, 5, np.nan], np.float32))
    assert set(rewards.parts) == {"a", "b"}
    np.testing.assert_array_equal(rewards.parts["a"], np.array([1, 4, np.nan], np.float32))
    np.testing.assert_array_equal(rewards.parts["b"], np.array([3, np.nan, np.nan], np.float32))


def test_the_limit_is_for_each_answer():
    began = time.monotonic()
    rewards = run(lambda _: time.sleep(0.12) or 1.0, "a", "b", "c")
    assert rewards.values.tolist() == [1, 1, 1] and time.monotonic() - began > 0.3


def test_the_limit_outlives_a_reward_with_an_alarm_of_its_own():
    rewards = run(lambda r: own_alarm() if r == "own" else forever(), "own", "hang")
    np.testing.assert_array_equal(rewards.values, np.array([1, np.nan], np.float32))


class OwnTimeout(Exception):
    pass


def as_math_verify(function: Callable[[], Any]) -> Any:
    """A call with the limit that math_verify sets, of one twentieth of a second: its handler and alarm, and the handler before put back."""

    def ring(*_):
        raise OwnTimeout

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        return function()
    except OwnTimeout:
        return 0.25
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def loose() -> float:
    """Leaves an alarm behind that rings in the next answer."""
    signal.signal(signal.SIGALRM, lambda *_: fail(OwnTimeout()))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    return 1.0


def catastrophic() -> float:
    """C code that holds the interpreter's lock, and looks for signals now and then."""
    return float(re.match(r"(a+)+$", "a" * 40 + "b") is None)


AFTER_OWN = {
    "sleep": lambda: time.sleep(5),
    "loop": forever,
    "stubborn": stubborn,
    "expression": catastrophic,
    "integer": lambda: 9**9**9,
    "ignored alarm": lambda: signal.signal(signal.SIGALRM, signal.SIG_IGN) and time.sleep(5),
    "own alarm of a minute": lambda: signal.alarm(60) or time.sleep(5),
}


@pytest.mark.parametrize("after", AFTER_OWN)
def test_a_reward_with_its_own_limit_works_in_ours_and_ours_holds_after_it(after: str):
    def function(r: str) -> float:
        found = as_math_verify(lambda: time.sleep(5) if r == "slow" else 1.0)
        return AFTER_OWN[after]() if r == "hang" else found

    before, began = signal.getsignal(signal.SIGALRM), time.monotonic()
    rewards = run(function, "fine", "slow", "hang", "fine")
    np.testing.assert_array_equal(rewards.values, np.array([1, 0.25, np.nan, 1], np.float32))
    assert "took longer than 0.2 s" in rewards.first_failure and time.monotonic() - began < 2
    assert signal.getsignal(signal.SIGALRM) is before


def test_an_alarm_that_a_reward_leaves_does_not_ring_in_another_answer():
    rewards = run(lambda r: loose() if r == "loose" else time.sleep(0.1) or 1.0, "loose", "fine")
    assert rewards.failed == 0
    time.sleep(0.1)


def test_an_interrupt_by_the_user_goes_through_and_leaves_no_alarm_behind():
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(KeyboardInterrupt):
        run(lambda _: fail(KeyboardInterrupt()), "x")
    assert signal.getsignal(signal.SIGALRM) is before


def test_the_alarm_of_the_host_program_goes_on_where_it_was():
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(time.monotonic()))
    outer = signal.setitimer(signal.ITIMER_REAL, 0.4)
    began = time.monotonic()
    try:
        run(lambda _: forever(), "x")
        assert not rang
        time.sleep(0.4)
        assert len(rang) == 1 and 0.39 <= rang[0] - began < 0.6
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *outer)


def test_outside_the_main_thread_the_limit_would_not_hold():
    told = []

    def score():
        with pytest.raises(UserError, match="main thread"):
            run(len, "x")
        told.append(True)

    thread = threading.Thread(target=score)
    thread.start()
    thread.join()
    assert told


class Together(Reward):
    """Answers for all groups at once, by a function of their responses."""

    def __init__(self, function: Callable[[list[str]], Any]):
        self.function = function

    def score(self, prompt: Prompt, response: str) -> Any:
        raise AssertionError("asked one by one")

    def score_groups(self, groups: Sequence[Group]) -> Any:
        return self.function([e.text for g in groups for e in g.episodes])


GROUPS = [group("p0", "a", "b"), group("p1", "c")]


def together(function: Callable[[list[str]], Any], limits: RewardLimits = DROP) -> Rewards:
    return run_rewards(Together(function), limits, GROUPS)


def test_a_batched_reward_is_asked_once_and_answers_in_order():
    calls = []
    rewards = together(lambda texts: calls.append(texts) or [{"total": ord(t), "twice": 2 * ord(t)} for t in texts])
    assert calls == [["a", "b", "c"]] and rewards.values.tolist() == [97, 98, 99] and rewards.parts["twice"].tolist() == [194, 196, 198]
    assert rewards.failed == 0
    assert run_rewards(Together(len), DROP, []).values.shape == (0,)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda texts: fail(OSError("out of memory")), "prompt p0: OSError: out of memory ("),
        (lambda texts: forever(), "prompt p0: took longer than 0.6 s ("),  # 0.2 s for each of three
        (lambda texts: [stubborn()] * 3, "took longer than 0.6 s ("),
        (lambda texts: [1.0, 2.0], "score_groups returned 2 rewards for 3 answers ("),
        (lambda texts: None, "TypeError: 'NoneType' object is not iterable ("),
        (lambda texts: fail(SystemExit(3)), "SystemExit: 3 ("),
    ],
)
def test_a_batch_that_fails_costs_its_own_answers_and_not_the_run(function, told):
    rewards = together(function)
    assert np.isnan(rewards.values).all() and rewards.failed == 3
    assert told in rewards.first_failure and rewards.first_failure.endswith(", and with it 3 answers")
    assert together(function, SCORE).values.tolist() == [-1.5] * 3


def test_a_batch_has_the_time_of_all_its_answers():
    began = time.monotonic()
    assert together(lambda texts: time.sleep(0.4) or [1.0] * 3).failed == 0 and time.monotonic() - began > 0.3


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (ZeroDivisionError("no"), "ZeroDivisionError: no ("),
        (float("nan"), "returned nan"),
        ("1", "returned a str"),
        ({"a": 1.0}, "without `total`"),
    ],
)
def test_one_bad_answer_of_a_batch_costs_itself(answer, told):
    rewards = together(lambda texts: [1.0, answer, 3.0])
    np.testing.assert_array_equal(rewards.values, np.array([1, np.nan, 3], np.float32))
    assert rewards.failed == 1 and rewards.first_failure.startswith("prompt p0: ") and told in rewards.first_failure


def test_a_reward_of_single_answers_judges_groups_too():
    """What a reward that wraps another one calls."""
    reward = Programmed(lambda r: 1 / (len(r) - 1))
    found = reward.score_groups([group("a", "xx", "x"), group("b", "xxx")])
    assert found[::2] == [1.0, 0.5] and isinstance(found[1], ZeroDivisionError)
    assert not reward.batched and Together(len).batched


def test_lost_groups_are_failures():
    rewards = failed_rewards([group("a", "x", "y"), group("b", "z")], SCORE, "its worker died")
    assert rewards.values.tolist() == [-1.5] * 3
    assert (rewards.failed, rewards.first_failure) == (3, "prompt a: its worker died")


def test_joined_shards_are_the_whole():
    def function(r):
        return {"total": 1, "a": 2} if r == "dict" else 1 / 0 if r == "bad" else 3

    responses = ["num", "dict", "bad", "num", "dict"]
    whole = run(function, *responses)
    parts = concatenate_rewards([run_rewards(Programmed(function), DROP, [group(f"p{i}", r)]) for i, r in enumerate(responses)])
    np.testing.assert_array_equal(parts.values, whole.values)
    np.testing.assert_array_equal(parts.parts["a"], whole.parts["a"])
    # The message names the line, the same in both.
    assert (parts.failed, parts.first_failure) == (whole.failed, whole.first_failure)
    assert concatenate_rewards([]).values.shape == (0,)


def test_a_timeout_is_not_an_exception_that_rewards_catch():
    assert not issubclass(DeadlinePassed, Exception)
