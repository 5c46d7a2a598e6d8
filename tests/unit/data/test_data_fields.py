"""The keys of rows: how a question is asked, where its final answer is, which rows are used, and which are held out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import inf, nan

import pyarrow
import pyarrow.parquet
import pytest
from helpers.own_tokenizers import CHATML, byte_tokenizer

from align.config.nodes import build_part
from align.config.recipes import build
from align.errors import RecipeError, UserError
from align.experience import task_data
from align.experience.examples import Examples, tokenize
from align.run.evaluation import Suites
from align.run.notes import data_notes
from align.tasks.jsonl import Jsonl
from align.tasks.preferences import Preferences

CHAT = byte_tokenizer(template=CHATML, eos="<|im_end|>")
TEXT = byte_tokenizer(bos="<|im_start|>")


@pytest.fixture
def write(tmp_path) -> Callable[..., str]:
    def write(*rows: dict, name: str = "rows.jsonl") -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return write


# How a question is asked


def test_a_plain_question_is_asked_as_the_users_turn(write):
    path = write({"prompt": "2+2=", "answer": "4"})
    (example,) = Jsonl(path, chat=True, system="Be brief.").examples()
    assert example.messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2="})
    (prompt,) = tokenize([example], CHAT)
    assert prompt.text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n"
    assert Jsonl(path, chat=True).examples()[0].messages == ({"role": "user", "content": "2+2="},)


def test_a_conversation_keeps_its_own_system_turn(write):
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "a"}]
    first, second = Jsonl(write({"prompt": own}, {"prompt": own[1:]}), system="Yours.").examples()
    assert [turn["content"] for turn in first.messages] == ["Mine.", "a"]
    assert [turn["content"] for turn in second.messages] == ["Yours.", "a"]


@pytest.mark.parametrize(("key", "value"), [("system", "x"), ("template", {"a": 1})])
def test_a_key_of_conversations_alone_is_refused_for_plain_text(write, key, value):
    with pytest.raises(RecipeError, match=rf"task\.{key}: changes nothing: .*or set task\.chat: true"):
        Jsonl(write({"prompt": "a"}), **{key: value}).examples()


# The final answer


@pytest.mark.parametrize(
    ("extract", "says"),
    [("hash_mark", "extract: 'hash_mark' is none of whole, hash_marks"), ("(a)(b)", "is none of"), ("(", "is no regular expression")],
)
def test_what_is_no_extraction(extract, says):
    with pytest.raises(RecipeError, match=says):
        build_part("task", {"name": "jsonl", "path": "x", "extract": extract}, "task")


def test_rewards_get_the_final_answer_and_demonstrations_stay_whole(write):
    (example,) = Jsonl(write({"prompt": "q", "answer": "a\n#### 4"}), extract="hash_marks").examples()
    assert (example.answer, example.fields["answer"]) == ("a\n#### 4", "4")
    with pytest.raises(UserError, match=r"line 1: task\.extract: boxed finds nothing in answer, .*task\.bad_rows: drop"):
        Jsonl(write({"prompt": "q", "answer": "a"}), extract="boxed").examples()


# Which rows are used


ROWS = [{"prompt": f"q{i}", "answer": "1", "level": i, "tag": "ab"[i % 2] * (i + 1)} for i in range(6)]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"level": 3}, [3]),
        ({"level": [1, 4]}, [1, 4]),
        ({"level": {"min": 2, "max": 3}}, [2, 3]),
        ({"tag": {"matches": "^a"}}, [0, 2, 4]),
        ({"tag": {"not_matches": "a"}}, [1, 3, 5]),
        ({"tag": {"min_length": 5}}, [4, 5]),
        ({"tag": {"max_length": 2}, "level": {"min": 1}}, [1]),
    ],
)
def test_filters_take_rows_by_field(write, given, kept):
    task = build_part("task", {"name": "jsonl", "path": write(*ROWS), "filter": given}, "task")
    assert [e.fields["level"] for e in task.examples()] == kept


def test_each_filter_tells_its_count(write):
    task = Jsonl(path := write(*ROWS), filter={"level": {"min": 2}, "tag": {"matches": "a"}})
    assert task.notes() == [f"{path}: task.filter.level leaves out 2 of 6 rows", f"{path}: task.filter.tag leaves out 2 of 6 rows"]
    assert Jsonl(path).notes() == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"level": {"minimum": 2}}, r"filter\.level\.minimum: no such condition; did you mean 'min'"),
        ({"level": {"min": "2"}}, r"filter\.level\.min must be a number, not '2'"),
        ({"level": {"min": float("nan")}}, r"filter\.level\.min must be a number, not nan"),
        ({"level": float("nan")}, r"filter\.level: no value equals nan: write null for the rows without level"),
        ({"level": {"matches": "("}}, r"filter\.level\.matches: '\(' is no regular expression"),
    ],
)
def test_what_is_no_filter(given, says):
    with pytest.raises(RecipeError, match=says):
        build_part("task", {"name": "jsonl", "path": "x", "filter": given}, "task")


def test_a_filter_that_takes_all_or_names_no_field_is_refused(write):
    with pytest.raises(UserError, match=r"task\.filter\.level leaves out 6 of 6 rows, so none is left; the first has level: 0"):
        Jsonl(write(*ROWS), filter={"level": 9}).examples()
    with pytest.raises(UserError, match=r"no row has the field 'lvl' that task\.filter names"):
        Jsonl(write(*ROWS), filter={"lvl": 9}).examples()


def test_rows_that_cannot_be_used_stop_the_run_or_are_counted(write):
    path = write(*ROWS[:2], {"prompt": " "}, {"prompt": "x", "answer": 3})
    with pytest.raises(UserError, match="line 3: prompt is empty"):
        Jsonl(path).examples()
    task = Jsonl(path, bad_rows="drop")
    assert [e.text for e in task.examples()] == ["q0", "q1"]
    (note,) = task.notes()
    assert "2 of 4 rows cannot be used and are left out; the first:" in note and "line 3: prompt is empty" in note


def test_nan_in_a_table_is_a_missing_value_and_an_infinity_is_refused(tmp_path):
    table = {"prompt": ["q0", "q1", "q2"], "answer": ["1", "2", None], "level": [1.0, nan, 3.0], "marks": [[1.0, nan], [], []]}
    pyarrow.parquet.write_table(pyarrow.table(table), path := str(tmp_path / "rows.parquet"))
    rows = Jsonl(path).examples()
    assert [(e.fields["level"], e.fields["marks"]) for e in rows] == [(1.0, [1.0, None]), (None, []), (3.0, [])]
    assert [e.text for e in Jsonl(path, filter={"level": None}).examples()] == ["q1"]
    task = Jsonl(path, prompt="level", bad_rows="drop")
    with pytest.raises(UserError, match="3 of 3 rows cannot be used"):
        task.examples()
    with pytest.raises(UserError, match=r"rows\.parquet, row 1: level must be a string, not null"):
        Jsonl(path, prompt="level", filter={"level": None}).examples()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["q0"], "level": [-inf]}), path)
    with pytest.raises(UserError, match="row 0: level holds -Infinity, which JSON cannot hold; write a number, or null"):
        Jsonl(path).examples()


# Which are held out


def test_a_share_is_held_out_by_the_prompt_alone(write):
    rows = [{"prompt": f"question {i}", "answer": f"{i}"} for i in range(200)]
    task = Jsonl(write(*rows), eval_share=0.2)
    held, trained = [e.text for e in task.suites(1000)["eval"]], [e.text for e in task.examples()]
    assert sorted(held + trained) == sorted(row["prompt"] for row in rows) and 20 < len(held) < 60
    more = Jsonl(write({"prompt": "question 7", "answer": "again"}, *rows, *({"prompt": f"later {i}"} for i in range(50))), eval_share=0.2)
    assert {e.text for e in more.suites(1000)["eval"]} >= set(held) and not {e.text for e in more.examples()} & set(held)
    asked = Jsonl(write(*rows), eval_share=0.2, chat=True, system="Be brief.")
    assert [e.messages[-1]["content"] for e in asked.suites(1000)["eval"]] == held


def test_pairs_are_held_out_by_prompt(write):
    rows = [{"prompt": f"p{i // 2}", "chosen": f"a{i}", "rejected": "b"} for i in range(40)]
    task = Preferences(write(*rows), eval_share=0.5)
    held, trained = ({e.text for e in found} for found in (task.rankings(), task.examples()))
    assert held and trained and not held & trained


def test_a_share_beside_a_held_out_source_is_refused():
    with pytest.raises(RecipeError, match="eval_share changes nothing beside eval_path"):
        build_part("task", {"name": "jsonl", "path": "x", "eval_path": "y", "eval_share": 0.1}, "task")
    with pytest.raises(RecipeError, match=r"eval_share.*below 1"):
        build_part("task", {"name": "jsonl", "path": "x", "eval_share": 1.0}, "task")


def test_a_seed_shuffles_what_is_taken_first(write):
    held = write(*ROWS, name="held.jsonl")
    orders = [
        [e.text for e in Jsonl(write({"prompt": "a"}), eval_path=held, shuffle_seed=seed).suites(6)["eval"]] for seed in (None, 1, 1, 2)
    ]
    assert orders[0] == [row["prompt"] for row in ROWS] and orders[1] == orders[2]
    assert orders[1] != orders[0] and orders[1] != orders[3] and sorted(orders[1]) == sorted(orders[0])


# Too long


LONG = [{"prompt": "ab", "answer": "1"}, {"prompt": "abcdefgh", "answer": "1"}, {"prompt": "x", "answer": "123456789"}]


def examples(task, tokenizer=TEXT) -> Examples:
    return Examples(task, tokenizer, 1, 0)


def test_a_prompt_that_is_too_long_stops_the_run(write):
    with pytest.raises(UserError, match=r"line 2: the prompt has 9 tokens; task\.max_prompt_tokens is 4, and 1 of 3 prompts are longer"):
        examples(Jsonl(write(*LONG), max_prompt_tokens=4))


def test_or_is_dropped_and_counted(write):
    found = examples(Jsonl(write(*LONG), max_prompt_tokens=4, too_long="drop"))
    assert [e.text for e in found.examples] == ["ab", "x"] and found.max_prompt_tokens == 3
    assert found.notes == ["task: 1 of 3 prompts beyond task.max_prompt_tokens, 4, are left out"]
    with pytest.raises(UserError, match=r"every one of 3 prompts is beyond task\.max_prompt_tokens, 1; raise it"):
        examples(Jsonl(write(*LONG), max_prompt_tokens=1, too_long="drop"))


def test_or_loses_its_first_tokens_behind_the_one_that_begins_a_text(write):
    found = examples(Jsonl(write(*LONG), max_prompt_tokens=4, too_long="truncate_left"))
    texts = {TEXT.decode(p.token_ids) for step in range(3) for p in found.prompts(step)}
    assert texts == {"<|im_start|>ab", "<|im_start|>fgh", "<|im_start|>x"}
    assert found.notes == ["task: 1 of 3 prompts beyond task.max_prompt_tokens, 4, lose their first tokens"]
    with pytest.raises(UserError, match="is a conversation, which loses the opening of its turns"):
        examples(Jsonl(write(*LONG), chat=True, max_prompt_tokens=4, too_long="truncate_left"), CHAT)


def test_a_demonstration_that_is_too_long_stops_the_run_or_is_dropped(write):
    stop, drop = (Jsonl(write(*LONG), too_long=word) for word in ("stop", "drop"))
    with pytest.raises(UserError, match=r"line 3: the answer has 10 tokens, .*sampling\.max_tokens is 4; .*too_long: drop"):
        examples(stop).fit_demonstrations(stop, 4)
    found = examples(drop)
    found.fit_demonstrations(drop, 4)
    assert [e.text for e in found.examples] == ["ab", "abcdefgh"]
    assert found.notes == ["task: 1 of 3 demonstrations beyond sampling.max_tokens, 4, are left out"]
    assert {g.prompt.text for step in range(2) for g in found.demonstrations(step)} == {"ab", "abcdefgh"}
    with pytest.raises(UserError, match=r"every one of 3 demonstrations is beyond sampling\.max_tokens, 1"):
        examples(drop).fit_demonstrations(drop, 1)


@pytest.mark.parametrize(
    ("keys", "says"),
    [({"too_long": "truncate_left"}, "changes nothing without max_prompt_tokens"), ({"bad_rows": "skip"}, "bad_rows must be stop or drop")],
)
def test_keys_that_say_nothing(keys, says):
    with pytest.raises(RecipeError, match=says):
        build_part("task", {"name": "jsonl", "path": "x", **keys}, "task")


# What a run tells


def test_a_run_tells_what_was_left_out_of_its_rows_and_of_its_held_out_prompts(write):
    path, held, level = write(*ROWS), write(*({**row, "level": 4} for row in LONG), name="held.jsonl"), {"level": {"min": 4}}
    task = Jsonl(path, filter=level, eval_path=held, max_prompt_tokens=4, too_long="drop")
    recipe = build({"steps": 1, "task": "countdown", "algorithm": "sft", "model": {"path": "nowhere"}})
    recipe = replace(recipe, task=task)
    assert list(data_notes(recipe, examples(task), Suites(recipe, TEXT, recipe.evaluation.problems))) == [
        f"{path}: task.filter.level leaves out 4 of 6 rows",
        "task: 1 of 3 prompts of eval beyond task.max_prompt_tokens, 4, are left out",
    ]


def test_a_run_without_held_out_problems_says_that_nothing_is_evaluated(write):
    task = Jsonl(write(*ROWS))
    recipe = replace(build({"steps": 1, "task": "countdown", "algorithm": "sft", "model": {"path": "nowhere"}}), task=task)
    (note,) = data_notes(recipe, examples(task), Suites(recipe, TEXT, recipe.evaluation.problems))
    assert note.startswith("task: has no held-out problems, so no answers of the model are evaluated and kl/initial is not measured")
    silent = replace(recipe, evaluation=replace(recipe.evaluation, every=-1))
    assert list(data_notes(silent, examples(task), Suites(silent, TEXT, 0))) == []


def test_notes_are_lines():
    with pytest.raises(RecipeError, match="a list of lines"):
        task_data.notes(type("Wrong", (), {"notes": lambda self: "one text"})())


# Dialogues in one text


ASK = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: how?\n\nAssistant:"


def test_dialogues_that_begin_alike_are_a_prompt_and_two_answers(write):
    path = write({"chosen": f"{ASK} well", "rejected": f"{ASK} bad"})
    (plain,), (chat,) = Preferences(path).examples(), Preferences(path, chat=True, system="S").examples()
    assert (plain.text, plain.ranked, plain.messages) == (ASK, (" well", " bad"), ())
    assert chat.ranked == ("well", "bad")
    assert [(turn["role"], turn["content"]) for turn in chat.messages] == [
        ("system", "S"),
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "how?"),
    ]


@pytest.mark.parametrize(
    "rejected", [ASK.replace("how", "why") + " bad", f"{ASK} bad\n\nHuman: more\n\nAssistant: no", "\n\nHuman: other\n\nAssistant: bad"]
)
def test_dialogues_that_do_not_begin_alike_are_no_answers_to_one_prompt(write, rejected):
    good = {"chosen": f"{ASK} well", "rejected": f"{ASK} bad"}
    path = write(good, {"chosen": f"{ASK} well", "rejected": rejected})
    with pytest.raises(UserError, match=r"line 2: chosen and rejected do not begin alike up to their last 'Assistant:'.*bad_rows: drop"):
        Preferences(path).examples()
    assert len(Preferences(path, bad_rows="drop").examples()) == 1
