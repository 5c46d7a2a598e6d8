"""A row that the reward cannot judge is refused before anything is sampled."""

import json
from pathlib import Path

import pytest
from helpers.bandit_run import PLUGIN, start

from align.config import recipes
from align.config.nodes import build_part
from align.errors import RecipeError
from align.experience.judged_rows import check
from align.tasks import Example
from align.workers.local import LocalWorkers

OWN = "class Own:\n    required_fields = NAMES\n    def score(self, prompt, response):\n        return 1.0\n"


@pytest.fixture
def rows(tmp_path: Path) -> dict:
    """Four rows, of which the second has no answer, and the fourth null."""
    given = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2="}, {"prompt": "3=", "answer": "3"}, {"prompt": "4=", "answer": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    return {"task": {"name": "jsonl", "path": str(tmp_path / "rows.jsonl")}}


@pytest.mark.parametrize(
    "reward",
    [
        "match",
        {"name": "learned", "path": "nowhere", "gold": "match"},
        {"name": "sum", "rewards": {"short": "brevity", "all": {"name": "sum", "rewards": {"right": "match"}}}},
    ],
    ids=["match", "learned", "sum"],
)
def test_a_row_without_an_answer_to_match_is_refused_at_its_line(tmp_path: Path, rows: dict, reward, monkeypatch):
    monkeypatch.setattr(LocalWorkers, "__init__", lambda *_: pytest.fail("models were loaded"))
    with pytest.raises(
        RecipeError, match=r"judges by the field answer, which 2 of 4 rows lack, the first at .*rows\.jsonl, line 2: give each"
    ) as error:
        start(tmp_path, reward=reward, **rows)
    assert str(error.value).startswith("reward: ") and not (tmp_path / "run" / "model").exists()


def test_a_reward_of_a_user_declares_its_fields(tmp_path: Path):
    (tmp_path / "mine.py").write_text(OWN.replace("NAMES", "('level',)"))
    reward = recipes.build({"steps": 1, "task": f"{PLUGIN}:OnePrompt", "algorithm": "grpo", "reward": f"{tmp_path}/mine.py:Own",
                            "model": {"path": "x"}}).reward  # fmt: skip
    check(reward, [Example(id="0", text="a", fields={"level": 0})])
    with pytest.raises(RecipeError, match="judges by the field level, which 1 of 1 rows lack, the first at task: example 7"):
        check(reward, [Example(id="7", text="a")])


@pytest.mark.parametrize("inside", [False, True])
def test_tests_that_no_program_can_be_given_are_refused_at_their_row(inside: bool):
    node = {"name": "sum", "rewards": {"runs": "code"}} if inside else "code"
    reward = build_part("reward", node, "reward")
    check(reward, [Example(id="0", text="a", fields={"tests": ["assert f()"]})])
    with pytest.raises(RecipeError, match=r"cannot judge task: example 7: its field tests: .*a list of asserts"):
        check(reward, [Example(id="7", text="a", fields={"tests": {"a": 1}})])


def test_a_declaration_that_is_no_list_of_names_is_refused(tmp_path: Path):
    (tmp_path / "mine.py").write_text(OWN.replace("NAMES", "'answer'"))
    with pytest.raises(RecipeError, match=r"mine\.py.*required_fields is 'answer'; it must be a tuple of names"):
        start(tmp_path, reward=f"{tmp_path}/mine.py:Own")
