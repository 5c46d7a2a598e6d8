"""A plain function as a reward: which signatures, its keys, its failures, and how it is shown."""

import importlib
import inspect
import sys
import textwrap

import numpy as np
import pytest
from helpers.plugins.several import write
from typer.testing import CliRunner

from align import cli
from align.config import parts, recipes, registry
from align.config.docstrings import format_part, keys, summary
from align.config.nodes import build_part, resolved
from align.config.schema import RewardLimits
from align.errors import RecipeError
from align.rewards import Reward, Stepwise
from align.testing import check
from align.types import Episode, Group, Prompt
from align.workers.reward_runner import run_rewards

PROMPT = Prompt(id="p", text="1", token_ids=(1,), fields={"answer": "yes"})
FUNCTIONS = '''
    from align.rewards import Stepwise

    CALLS = []

    def both(prompt, response):
        """The answer is right."""
        return float(response == prompt.fields["answer"])

    def alone(response: str) -> float:
        return len(response)

    def turned(*, response, prompt):
        return {"total": 1.0, "length": float(len(response)), "field": float(len(prompt.fields))}

    def steps(response):
        return Stepwise(steps=[(0, 0.25), (1, 0.5)])

    def keyed(prompt, response, *, penalty: float = 0.1, words: list[str] = ["a"], mark: "str | None" = None):
        """Length, less a penalty.

        More of it.
        """
        return len(response) - penalty * sum(response.count(word) for word in words) - (mark is not None)

    def raises(response):
        raise KeyError("no such answer")

    def hangs(response):
        while True:
            pass

    def words(response):
        return "good"
'''


@pytest.fixture
def mine(tmp_path):
    path = write(tmp_path, mine=FUNCTIONS) / "mine.py"
    return lambda name, **given: build_part("reward", {"name": f"{path}:{name}", **given}, "reward")


def line_of(name: str) -> int:
    text = textwrap.dedent(FUNCTIONS).lstrip("\n").splitlines()
    return 1 + next(i for i, line in enumerate(text) if line.startswith(f"def {name}("))


def test_it_is_called_with_what_it_takes(mine):
    assert mine("both").score(PROMPT, "yes") == 1.0 and mine("both").score(PROMPT, "no") == 0.0
    assert mine("alone").score(PROMPT, "four") == 4
    assert mine("turned").score(PROMPT, "four") == {"total": 1.0, "length": 4.0, "field": 1.0}
    assert mine("steps").score(PROMPT, "four") == Stepwise(steps=[(0, 0.25), (1, 0.5)])
    assert isinstance(mine("both"), Reward) and not mine("both").batched


def test_annotated_parameters_are_keys(mine):
    assert mine("keyed").score(PROMPT, "aab") == pytest.approx(3 - 0.2)
    built = mine("keyed", penalty=1, words=["b", "a"], mark="x")
    assert built.score(PROMPT, "aab") == pytest.approx(3 - 3 - 1)
    assert {k: v for k, v in resolved(built).items() if k != "name"} == {"penalty": 1.0, "words": ["b", "a"], "mark": "x"}
    assert [(k.name, k.type, k.default, k.required) for k in keys(type(built))] == [
        ("penalty", "float", 0.1, False),
        ("words", "list[str]", ["a"], False),
        ("mark", "str | None", None, False),
    ]
    with pytest.raises(RecipeError, match=r"reward.penalt: unknown key; did you mean 'penalty'\? keyed takes: penalty, words, mark"):
        mine("keyed", penalt=1)
    with pytest.raises(RecipeError, match=r"reward.penalty: 'much' is not of type float"):
        mine("keyed", penalty="much")


def test_a_list_is_a_list_of_each_calls_own(tmp_path):
    write(tmp_path, mine="def grows(response, seen: list[str] = []):\n    seen.append(response)\n    return len(seen)\n")
    built = build_part("reward", f"{tmp_path}/mine.py:grows", "")
    assert [built.score(PROMPT, "a") for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", "KeyError: 'no such answer' ({place}:{after})"),
        ("hangs", "took longer than 0.2 s"),
        ("words", "returned a str; a reward is a number, or named numbers with their `total` ({place}:{line})"),
    ],
)
def test_what_fails_costs_its_own_sample(mine, tmp_path, name, says):
    group = Group(prompt=PROMPT, episodes=(Episode.single_turn(np.zeros(1, np.int32), "four"),))
    rewards = run_rewards(mine(name), RewardLimits(seconds=0.2), [group])
    line = line_of(name)
    assert rewards.failed == 1 and np.isnan(rewards.values).all()
    assert says.format(place=tmp_path / "mine.py", line=line, after=line + 1) in rewards.first_failure


@pytest.mark.parametrize(
    ("signature", "says"),
    [
        ("(text)", "odd(text) takes no answer"),
        ("(response, text)", "takes text, which has no default and is neither `prompt` nor `response`"),
        ("(text: str = '')", "takes no answer"),
        ("()", "takes no answer"),
        ("(prompt, response, answer: str)", "takes answer, which has no default"),
        ("(prompt, response, **kwargs)", "takes **kwargs, which is not given by name"),
        ("(*response)", "takes *response, which is not given by name"),
        ("(prompt, response, /)", "takes prompt, which is not given by name"),
    ],
)
def test_another_signature_says_what_is_expected(tmp_path, signature, says):
    write(tmp_path, mine=f"\n\nx = 1\ndef odd{signature}:\n    return 1.0\n")
    with pytest.raises(RecipeError) as caught:
        build_part("reward", f"{tmp_path}/mine.py:odd", "reward")
    told = str(caught.value)
    assert told.startswith(f"reward: {tmp_path}/mine.py:2: odd") and says in told, told
    assert told.endswith("def my_reward(prompt, response, *, penalty: float = 0.1)")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def odd(response, penalty=0.1): return 1.0", "annotate it: penalty: float = 0.1"),
        ("def odd(response, penalty: Absent = 0.1): return 1.0", "has an annotation that cannot be read"),
        ("def odd(response, start: int = 0): return 1.0", "takes a key start, which every reward has; call it otherwise"),
        ("async def odd(response): return 1.0", "is a coroutine or a generator"),
        ("def odd(response): yield 1.0", "is a coroutine or a generator"),
    ],
)
def test_another_mistake_says_how_to_mend_it(tmp_path, text, says):
    write(tmp_path, mine=f"from __future__ import annotations\n{text}\n")
    with pytest.raises(RecipeError) as caught:
        build_part("reward", f"{tmp_path}/mine.py:odd", "reward")
    assert str(caught.value).startswith(f"reward: {tmp_path}/mine.py:2: odd") and says in str(caught.value)


def test_another_kind_is_a_class(tmp_path):
    write(tmp_path, mine="def f(log_u):\n    return log_u\ndifferent = 3\nclass A: pass\n")
    with pytest.raises(RecipeError, match=r"d: .*/mine.py:1: f is a function; a divergence is a class with f"):
        build_part("divergence", f"{tmp_path}/mine.py:f", "d")
    with pytest.raises(RecipeError, match=r"mine.py has no class different; it has: A; functions: f"):
        build_part("divergence", f"{tmp_path}/mine.py:different", "d")


def test_it_is_shown_with_its_docstring_and_its_place(mine, tmp_path):
    part = mine("keyed")
    assert summary(type(part)) == "Length, less a penalty." and summary(type(mine("alone"))) == ""
    assert format_part(part) == "keyed(penalty=0.1, words=['a'], mark=None)".replace("keyed", f"{tmp_path}/mine.py:keyed")
    assert parts.location(type(part)) == f"{tmp_path}/mine.py:{line_of('keyed')}"
    assert inspect.getsource(type(part)).startswith("def keyed(")


def test_explain_names_it(tmp_path):
    write(tmp_path, mine=FUNCTIONS)
    (tmp_path / "r.yaml").write_text(
        "base: countdown_grpo\nreward: {name: ./mine.py:keyed, penalty: 0.5}\nmodel: {path: /nowhere, recipe: null}\n"
    )
    result = CliRunner().invoke(cli.app, ["explain", str(tmp_path / "r.yaml")], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    assert "penalty=0.5" in shown and "Length, less a penalty" in shown and f"mine.py:{line_of('keyed')}" in shown


def test_the_kit_and_its_command_take_it(mine, tmp_path):
    assert {f.name: f.found for f in check("reward", mine("keyed")) if not f.passed} == {}
    result = CliRunner().invoke(cli.app, ["check", f"{tmp_path}/mine.py:keyed", "penalty=0.5"], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    assert {f.name for f in check("reward", f"{tmp_path}/mine.py:words") if not f.passed} >= {"a number", "docstring"}
    function = importlib.import_module(type(mine("keyed")).__module__).keyed
    assert all(f.passed for f in check("reward", function, penalty=0.5))


def test_an_installed_package_brings_one(tmp_path, monkeypatch):
    write(tmp_path, rewarding="def short(response, most: int = 3):\n    '''Short answers.'''\n    return float(len(response) <= most)\n")
    info = tmp_path / "rewarding-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rewarding\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[align.rewards]\nshort = rewarding:short\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "rewarding", raising=False)
    assert registry.installed("reward").keys() == {"short"}
    for name in ("short", "rewarding:short"):
        assert build_part("reward", {"name": name, "most": 4}, "").score(PROMPT, "four") == 1.0
    result = CliRunner().invoke(cli.app, ["list", "reward"], env={"COLUMNS": "300"})
    assert "Short answers." in result.output and "most=3" in result.output


def test_a_recipe_of_it_can_be_built_again(tmp_path):
    write(tmp_path, mine=FUNCTIONS)
    node = {
        "steps": 1,
        "task": "countdown",
        "algorithm": "grpo",
        "model": {"path": "/nowhere"},
        "reward": {"name": f"{tmp_path}/mine.py:keyed", "penalty": 0.5},
    }
    assert recipes.build(resolved(recipes.build(node))).reward.penalty == 0.5
