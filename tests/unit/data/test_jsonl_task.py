"""A user's own file: what travels with a prompt, and errors that name the file, the line and the remedy."""

import json

import numpy as np
import pytest

from align.config.nodes import build_part
from align.errors import RecipeError, UserError
from align.rewards.match import Match
from align.tasks import Example
from align.tasks.jsonl import Jsonl
from align.types import Episode, Group, Prompt


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def lines(*rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_rows_become_examples(write):
    path = write(
        lines(
            {"prompt": "2+2=", "answer": "4", "id": "easy-1", "level": 3, "tags": ["sum"]},
            {"prompt": "Write a poem.", "answer": None},
            {"prompt": " three ", "id": 7},
        )
    )
    assert list(Jsonl(path).examples()) == [
        Example(id="easy-1", text="2+2=", answer="4", fields={"answer": "4", "level": 3, "tags": ["sum"]}),
        Example(id="line-2", text="Write a poem.", fields={}),
        Example(id="7", text=" three ", fields={}),
    ]


def test_fields_may_have_other_names(write):
    path = write(
        lines(
            {"question": "q", "solution": "a", "key": "k", "answer": "unused", "id": 1, "prompt": "kept"},
            {"question": "r", "answer": "unused"},
        )
    )
    assert list(Jsonl(path, prompt="question", answer="solution", id="key").examples()) == [
        Example(id="k", text="q", answer="a", fields={"answer": "a", "id": 1, "prompt": "kept"}),
        Example(id="line-2", text="r"),
    ]


def test_bom_blank_lines_line_ends_and_letters(write):
    path = write(b'\xef\xbb\xbf{"prompt": "na\xc3\xafve\\u2028"}\r\n\r\n   \n{"prompt": "last\xe2\x80\xa8line"}')
    assert [(e.id, e.text) for e in Jsonl(path).examples()] == [("line-1", "naïve\u2028"), ("line-4", "last\u2028line")]


def test_relative_paths_start_at_the_working_directory(write, tmp_path, monkeypatch):
    write(lines({"prompt": "x"}))
    monkeypatch.chdir(tmp_path)
    assert [e.text for e in Jsonl("rows.jsonl").examples()] == ["x"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"rows\.jsonl: has no rows; write one JSON object a line"),
        ("\n \n", r"rows\.jsonl: has no rows"),
        ('{"prompt": "a"}\n{"prompt" "b"}\n', r"rows\.jsonl, line 2: is not JSON: Expecting ':' delimiter at column 11"),
        ('{"prompt": "a"}\n\n{"prompt": ', r"rows\.jsonl, line 3: is not JSON: Expecting value at column 12"),
        ('{"prompt": "a", "x": NaN}\n', r"rows\.jsonl, line 1: is not JSON: NaN is no value of JSON: write null"),
        (b'{"prompt": "a"}\n{"prompt": "\xff"}\n', r"rows\.jsonl, line 2: is not JSON: 'utf-8' codec"),
        ('{"prompt": "a"}\n["b"]\n', r'rows\.jsonl, line 2: is not an object but \["b"\]'),
        ('"prompt"\n', r"rows\.jsonl, line 1: is not an object"),
        (
            '{"prompt": "a"}\n{"question": "b", "level": 2}\n',
            r"line 2: has no field 'prompt'; .* task\.prompt; the row has: question, level",
        ),
        ("{}\n", r"line 1: has no field 'prompt'.* the row has: none"),
        ('{"prompt": "a"}\n{"prompt": " \\n"}\n', r"line 2: prompt is empty"),
        ('{"prompt": null}\n', r"line 1: prompt must be a string, not null"),
        ('{"prompt": 4}\n', r'line 1: prompt must be a string, not 4; or a list of turns \{"role'),
        ('{"prompt": []}\n', r'line 1: prompt must be a list of turns \{"role": \.\.\., "content": \.\.\.\}, not \[\]'),
        ('{"prompt": [{"role": "user"}]}\n', r'line 1: prompt\[0\] must be a turn \{"role".*, both strings, not \{"role": "user"'),
        ('{"prompt": [{"role": "user", "content": " "}]}\n', r"line 1: the last turn of prompt is empty"),
        ('{"prompt": [{"role": "assistant", "content": "b"}]}\n', r"line 1: prompt ends with a turn by the assistant"),
        ('{"prompt": "a", "answer": 4}\n', r"line 1: answer must be a string, not 4; put it in quotes"),
        ('{"prompt": "a", "answer": false}\n', r"line 1: answer must be a string, not false"),
        ('{"prompt": "a", "id": 1.5}\n', r"line 1: id must be a string or an integer, not 1\.5"),
        ('{"prompt": "a", "id": true}\n', r"line 1: id must be a string or an integer, not true"),
        ('{"prompt": "a", "id": "x"}\n{"prompt": "b"}\n{"prompt": "c", "id": "x"}\n', r"line 3: has the same id as line 1, 'x'"),
        ('{"prompt": "a", "id": "line-2"}\n{"prompt": "b"}\n', r"line 2: has the same id as line 1, 'line-2'"),
    ],
)
def test_errors_name_file_line_and_remedy(write, content, message):
    with pytest.raises(UserError, match=message):
        Jsonl(write(content)).examples()


def test_the_held_out_file_is_checked_alike(write):
    task = Jsonl(write(lines({"prompt": "a"})), eval_path=write("{", "held.jsonl"))
    with pytest.raises(UserError, match=r"held\.jsonl, line 1: is not JSON"):
        task.suites(5)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "nowhere.jsonl", tmp_path):
        with pytest.raises(UserError, match=r"there is no such file .*working directory") as caught:
            Jsonl(str(path)).examples()
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("key", ["answer", "id"])
def test_a_name_that_no_row_has_is_refused(write, key):
    path = write(lines({"prompt": "a", "answer": "b"}))
    with pytest.raises(UserError, match=rf"rows\.jsonl: no row has the field 'anwser' that task\.{key} names; .*prompt, answer"):
        Jsonl(path, **{key: "anwser"}).examples()


def test_recipe_errors(write):
    with pytest.raises(RecipeError, match=r"task\.path: must be given"):
        build_part("task", "jsonl", "task")
    with pytest.raises(RecipeError, match=r"task: prompt, answer and id must be three fields"):
        build_part("task", {"name": "jsonl", "path": "x", "answer": "prompt"}, "task")
    with pytest.raises(RecipeError, match=r"task\.eval_paths: unknown key; did you mean 'eval_path'"):
        build_part("task", {"name": "jsonl", "path": "x", "eval_paths": "y"}, "task")


def test_suites_are_the_first_rows_of_the_held_out_file(write):
    train = write(lines({"prompt": "a"}))
    held = write(lines(*({"prompt": f"question {i}"} for i in range(5))), "held.jsonl")
    assert Jsonl(train).suites(3) == {}
    suites = Jsonl(train, eval_path=held).suites(3)
    assert {name: [e.text for e in examples] for name, examples in suites.items()} == {"eval": ["question 0", "question 1", "question 2"]}
    assert len(Jsonl(train, eval_path=held).suites(50)["eval"]) == 5


def group(example: Example, *texts: str) -> Group:
    prompt = Prompt(id=example.id, text=example.text, token_ids=(1,), fields=example.fields)
    return Group(prompt=prompt, episodes=tuple(Episode.single_turn(np.zeros(2 * len(t), np.int32), t) for t in texts))


def test_judge_by_hand(write):
    with_answer, other, without = Jsonl(
        write(lines({"prompt": "2+2=", "answer": "4"}, {"prompt": "3+3=", "answer": " 6"}, {"prompt": "Write."}))
    ).examples()
    task = Jsonl("unread")
    groups = [group(with_answer, "4", " 4\n"), group(other, "7", "6"), group(without, "abc", "")]
    assert task.judge("eval", groups) == {"length": pytest.approx((2 + 6 + 2 + 2 + 6 + 0) / 6), "exact_match": 0.75}
    assert task.judge("eval", groups[2:]) == {"length": 3.0}


def test_match_rewards_the_answer_of_the_row(write):
    (example,) = Jsonl(write(lines({"question": "2+2=", "result": "4"})), prompt="question", answer="result").examples()
    prompt = Prompt(id=example.id, text=example.text, token_ids=(), fields=example.fields)
    assert [Match().score(prompt, response) for response in ("4", " 4", "44")] == [1.0, 1.0, 0.0]
