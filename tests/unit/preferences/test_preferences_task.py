"""Answers in order of preference: how rows become rankings, from which sources, and what is said of a row that cannot."""

import datetime
import sys

import datasets
import pytest
from unit.preferences.conversations import BAD, PAIR, TOKENIZER

from align.config.nodes import build_part, resolved
from align.errors import RecipeError, UserError
from align.tasks import Example
from align.tasks.countdown import Countdown
from align.tasks.jsonl import Jsonl
from align.tasks.preferences import Preferences

# Rows


def test_pairs_become_examples(write):
    path = write({**PAIR, "id": "x", "level": 3}, {**PAIR, "id": 7}, PAIR)
    examples = Preferences(path).examples()
    assert examples == [
        Example(id="x", text="p", answer="a", ranked=("a", "b"), fields={"level": 3}),
        Example(id="7", text="p", answer="a", ranked=("a", "b")),
        Example(id="line-3", text="p", answer="a", ranked=("a", "b")),
    ]
    assert [(e.where, e.ranked_names) for e in examples[:1]] == [(f"{path}, line 1", ("chosen", "rejected"))]


def test_a_list_of_answers_is_a_ranking(write):
    path = write({"prompt": "p", "answers": ["a", "b", "c"], "chosen": "travels"}, {"prompt": "q", "answers": ["d", "e"]})
    first, second = Preferences(path, answers="answers").examples()
    assert (first.ranked, first.ranked_names, first.fields) == (
        ("a", "b", "c"),
        ("answers[0]", "answers[1]", "answers[2]"),
        {"chosen": "travels"},
    )
    assert second.ranked == ("d", "e")


def test_fields_may_have_other_names_and_ids_may_be_ignored(write):
    path = write({"q": "p", "win": "a", "lose": "b", "id": 1}, {"q": "p", "win": "a", "lose": "c", "id": 1})
    examples = Preferences(path, prompt="q", chosen="win", rejected="lose", id=None).examples()
    assert [(e.id, e.ranked, e.fields) for e in examples] == [("line-1", ("a", "b"), {"id": 1}), ("line-2", ("a", "c"), {"id": 1})]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "a"}, r"line 2: has no field 'rejected'; .* the worse answer with task\.rejected; the row has: prompt"),
        ({"prompt": "p", "rejected": "a"}, r"line 2: has no field 'chosen'; .* the better answer with task\.chosen"),
        ({"chosen": "a", "rejected": "b"}, r"line 2: has no field 'prompt'; .* the question with task\.prompt"),
        ({**PAIR, "chosen": 4}, r"line 2: chosen must be a string, not 4; or each of them a list of turns"),
        ({**PAIR, "rejected": None}, r"line 2: rejected must be a string, not null"),
        ({**PAIR, "rejected": [BAD]}, r'line 2: rejected must be a string, not \[\{"role"'),
        ({**PAIR, "rejected": " \n"}, r"line 2: rejected is empty; give it text or delete the row"),
        ({**PAIR, "prompt": ""}, r"line 2: prompt is empty"),
        ({**PAIR, "prompt": 3}, r"line 2: prompt must be a string, not 3; or a list of turns"),
        ({**PAIR, "rejected": "a"}, r"line 2: chosen and rejected are the same text, so neither is better; delete the row"),
        ({**PAIR, "id": "line-1"}, r"line 2: has the same id as line 1, 'line-1'; ids must differ"),
        ({**PAIR, "id": 1.5}, r"line 2: id must be a string or an integer, not 1\.5"),
    ],
)
def test_errors_name_file_line_and_field(write, row, message):
    with pytest.raises(UserError, match=rf"pairs\.jsonl, {message}"):
        Preferences(write(PAIR, row)).examples()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["a"], r'answers must be a list of two answers or more, best first, not \["a"\]'),
        ("ab", r'answers must be a list of two answers or more, best first, not "ab"'),
        (["a", "b", "a"], r"answers\[0\] and answers\[2\] are the same text"),
        (["a", 3], r"answers\[1\] must be a string, not 3"),
    ],
)
def test_errors_of_rankings(write, answers, message):
    with pytest.raises(UserError, match=rf"pairs\.jsonl, line 1: {message}"):
        Preferences(write({"prompt": "p", "answers": answers}), answers="answers").examples()
    with pytest.raises(UserError, match=r"has no field 'answers'; name the one that holds the answers, best first, with task\.answers"):
        Preferences(write(PAIR), answers="answers").examples()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, r"task\.path: must be given"),
        ({"answers": "answers", "chosen": "best"}, r"task: chosen changes nothing beside answers"),
        ({"rejected": "chosen"}, r"task: prompt, answers and id must be different fields, not 'prompt', 'chosen', 'chosen', 'id'"),
        ({"too_long": "cut"}, r"task: too_long must be stop, drop or truncate_left, not 'cut'"),
        ({"eval_path": "x"}, r"task: the held-out rows would be those that are trained on, x"),
        ({"eval_split": "train"}, r"task: the held-out rows would be those that are trained on"),
        ({"eval_path": "x", "split": "a", "eval_split": "a"}, r"task: the held-out rows would be those that are trained on"),
        ({"held_out": {"name": "countdown", "size": 0}}, r"task\.held_out: size must be at least 1"),
        ({"choosen": "a"}, r"task\.choosen: unknown key; did you mean 'chosen'"),
    ],
)
def test_keys_that_contradict_each_other(keys, message):
    given = {"path": "x"} | keys if keys else {}
    with pytest.raises(RecipeError, match=message):
        build_part("task", {"name": "preferences", **given}, "task")


@pytest.mark.parametrize("key", ["prompt", "id"])
def test_a_name_that_no_row_has_is_refused(write, key):
    with pytest.raises(UserError, match=rf"pairs\.jsonl: no row has the field 'nowhere' that task\.{key} names; .*: prompt, chosen"):
        Preferences(write(PAIR), **{key: "nowhere"}).examples()


def test_held_out_rows_are_rankings_and_another_task_judges_answers(write):
    task = build_part(
        "task",
        {
            "name": "preferences",
            "path": write(PAIR),
            "eval_path": write({**PAIR, "chosen": "c"}, name="held.jsonl"),
            "held_out": {"name": "countdown", "seed": 3},
        },
        "task",
    )
    assert [e.ranked for e in task.rankings()] == [("c", "b")]
    assert task.suites(5) == Countdown(seed=3).suites(5)
    assert task.tokenizer().get_vocab() == TOKENIZER.get_vocab()
    assert resolved(task)["held_out"]["seed"] == 3
    alone = Preferences(write(PAIR))
    assert (list(alone.rankings()), alone.suites(5), alone.tokenizer()) == ([], {}, None)


# Sources


def test_texts_that_look_like_dates_stay_texts(write):
    (example,) = Preferences(write({**PAIR, "chosen": "2020-01-01", "rejected": "2020-01-02"})).examples()
    assert example.ranked == ("2020-01-01", "2020-01-02")


def test_parquet_rows_and_what_json_cannot_hold(tmp_path):
    path = str(tmp_path / "pairs.parquet")
    datasets.Dataset.from_list([{**PAIR, "id": None, "day": datetime.date(2020, 1, 2)}, {**PAIR, "id": 5, "day": None}]).to_parquet(path)
    assert [(e.id, e.where, e.fields) for e in Preferences(path).examples()] == [
        ("row-0", f"{path}, row 0", {"day": "2020-01-02"}),
        ("5", f"{path}, row 1", {"day": None}),
    ]
    datasets.Dataset.from_list([PAIR, {**PAIR, "rejected": None}]).to_parquet(path)
    with pytest.raises(UserError, match=r"pairs\.parquet, row 1: rejected must be a string, not null"):
        Preferences(path).examples()
    datasets.Dataset.from_list([{**PAIR, "picture": b"\xff"}]).to_parquet(path)
    with pytest.raises(UserError, match=r"pairs\.parquet, row 0: picture holds a bytes, which JSON cannot hold; remove the column"):
        Preferences(path).examples()


def test_a_folder_of_splits(tmp_path):
    for split in ("train", "test"):
        rows = [{**PAIR, "chosen": f"{split}{i}"} for i in range(3)]
        datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "data" / f"{split}.parquet"))
    path = str(tmp_path / "data")
    task = Preferences(path, split="train[1:]", eval_split="test")
    assert [e.ranked[0] for e in task.examples()] == ["train1", "train2"]
    assert [e.ranked[0] for e in task.rankings()] == ["test0", "test1", "test2"]
    assert task.rankings()[1].where == f"{path} (test), row 1"
    assert [e.text for e in Jsonl(path, split="test").examples()] == ["p"] * 3
    with pytest.raises(UserError, match=r"data: cannot be loaded as a dataset: Unknown split \"tset\"\. Should be one of \['train'"):
        Preferences(path, split="tset").examples()
    with pytest.raises(UserError, match=r"BuilderConfig 'other' not found"):
        Preferences(path, subset="other").examples()


def test_a_dataset_saved_to_disk(tmp_path):
    datasets.DatasetDict({"train": datasets.Dataset.from_list([PAIR])}).save_to_disk(str(tmp_path / "saved"))
    assert [e.ranked for e in Preferences(str(tmp_path / "saved")).examples()] == [("a", "b")]


def test_what_is_no_source(tmp_path, write):
    (tmp_path / "bad.parquet").write_text("no table")
    for path, message in (
        (str(tmp_path / "bad.parquet"), r"bad\.parquet: is no Parquet file that can be read: "),
        ("nowhere.jsonl", r"nowhere\.jsonl: there is no such file .*working directory"),
        ("pairs", r"pairs: there is no such file .*named owner/name"),
        ("some/where/pairs", r"some/where/pairs: there is no such file"),
    ):
        with pytest.raises(UserError, match=message):
            Preferences(path).examples()
    path = write(PAIR)
    with pytest.raises(UserError, match=r"pairs\.jsonl: is a file, which has no splits; delete the key"):
        Preferences(path, split="train").examples()
    with pytest.raises(UserError, match=r"pairs\.jsonl: is a file, which has no subsets"):
        Preferences(path, subset="main").examples()


def test_the_hub_is_asked_for_split_and_subset(monkeypatch):
    asked = []

    def load_dataset(path, subset, *, split):
        asked.append((path, subset, split))
        if split == "train":
            raise ConnectionError("Couldn't reach 'owner/name' on the Hub")
        return datasets.Dataset.from_list([PAIR])

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", load_dataset)
    task = Preferences("owner/name", subset="main", eval_split="test")
    assert [e.where for e in task.rankings()] == ["owner/name (test), row 0"]
    with pytest.raises(
        UserError, match=r"cannot be fetched from the Hugging Face Hub: Couldn't reach 'owner/name' on the Hub; .*task\.path=FOLDER"
    ):
        task.examples()
    assert asked == [("owner/name", "main", "test"), ("owner/name", "main", "train")]
