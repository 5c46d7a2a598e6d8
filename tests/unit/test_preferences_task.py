"""Answers in order of preference: how rows become rankings, and what is said of a row that cannot."""

import datetime
import json
import string
import sys

import datasets
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl.data_utils import apply_chat_template, maybe_extract_prompt

from align.config.nodes import build_part, resolved
from align.errors import RecipeError, UserError
from align.experience.examples import Examples, held_out_rankings, tokenize
from align.tasks import Example
from align.tasks.countdown import Countdown
from align.tasks.jsonl import Jsonl
from align.tasks.preferences import Preferences

TOKENIZER = Countdown().tokenizer()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def write(tmp_path):
    def write(*rows: dict, name: str = "pairs.jsonl") -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return write


def said(who: str, what: str) -> dict:
    return {"role": who, "content": what}


ASK, GOOD, BAD = said("user", "ask"), said("assistant", "good"), said("assistant", "bad")
PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


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
        ({"too_long": "cut"}, r"task: too_long must be stop or drop, not 'cut'"),
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
    with pytest.raises(UserError, match=r"owner/name: cannot be loaded as a dataset: Couldn't reach 'owner/name' on the Hub; it must"):
        task.examples()
    assert asked == [("owner/name", "main", "test"), ("owner/name", "main", "train")]


# Conversations


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_tokenizer(template: str | None = CHATML, eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """One character a token, but for <|im_start|>, <|im_end|> and <eos>."""
    vocabulary = {token: i for i, token in enumerate(("<pad>", "<eos>", "<|im_start|>", "<|im_end|>", *string.printable))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token=eos)
    found.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    found.chat_template = template
    return found


SAME = [
    {"prompt": [ASK], "chosen": "good", "rejected": "bad"},
    {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]},
    {"prompt": [ASK], "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    {"prompt": "ask", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    {"prompt": "ask", "chosen": [GOOD], "rejected": [BAD]},
    {"prompt": [{**ASK, "name": None}], "chosen": [{**GOOD, "name": None}], "rejected": [BAD]},
]


@pytest.mark.parametrize("row", SAME, ids=range(len(SAME)))
def test_every_form_of_a_conversation_is_the_same_pair(write, row):
    (example,) = Preferences(write(row)).examples()
    assert example == Example(id="line-1", text="user: ask", messages=(ASK,), answer="good", ranked=("good", "bad"))


def test_a_ranking_of_conversations_shares_all_turns_but_the_last(write):
    begun = [said("system", "be brief"), ASK, GOOD, said("user", "again")]
    (example,) = Preferences(write({"answers": [[*begun, said("assistant", a)] for a in "xyz"]}), answers="answers").examples()
    assert example.messages == tuple(begun) and example.ranked == ("x", "y", "z")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": [GOOD], "rejected": [BAD]}, r"has no field 'prompt'"),
        (
            {"prompt": [ASK], "chosen": [GOOD, ASK, GOOD], "rejected": [BAD]},
            r"chosen must add one turn by the assistant to the prompt, not 3 turns \(assistant, user, assistant\)",
        ),
        ({"chosen": [ASK, GOOD], "rejected": [ASK]}, r"has no field 'prompt'"),
        (
            {"prompt": [ASK], "chosen": [ASK, GOOD], "rejected": [ASK]},
            r"rejected must add one turn by the assistant to the prompt, not 0 turns \(none\)",
        ),
        ({"chosen": [ASK, GOOD], "rejected": [ASK, said("user", "x")]}, r"rejected must add one turn by the assistant .* 1 turns \(user\)"),
        ({"chosen": [ASK, GOOD], "rejected": [ASK, GOOD]}, r"chosen and rejected are the same text"),
        ({"chosen": [ASK, GOOD], "rejected": [ASK, said("assistant", "")]}, r"rejected is empty"),
        ({"chosen": [ASK, GOOD], "rejected": []}, r'rejected must be a list of turns \{"role": \.\.\., "content": \.\.\.\}, not \[\]'),
        ({"chosen": [ASK, GOOD], "rejected": [ASK, {"role": "assistant"}]}, r"rejected\[1\] must be a turn .*, both strings"),
        ({"prompt": [ASK, GOOD], "chosen": "a", "rejected": "b"}, r"prompt ends with a turn by the assistant"),
        ({"chosen": [GOOD, GOOD], "rejected": [GOOD, BAD]}, r"what chosen and rejected have in common ends with a turn by the assistant"),
    ],
)
def test_conversations_that_are_no_pair(write, row, message):
    with pytest.raises(UserError, match=rf"pairs\.jsonl, line 1: {message}"):
        Preferences(write(row)).examples()


def test_the_template_opens_the_answer_and_the_end_of_its_turn_closes_it(write):
    tokenizer = chat_tokenizer()
    row = {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}
    (group,) = Examples(Preferences(write(row)), tokenizer, 1, 0).rankings(0)
    assert group.prompt.text == "<|im_start|>user\nask<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(list(group.prompt.token_ids)) == group.prompt.text
    assert [tokenizer.decode(e.trained_ids.tolist()) for e in group.episodes] == ["good<|im_end|>", "bad<|im_end|>"]
    assert [e.text for e in group.episodes] == ["good", "bad"]
    # An independent reading of the same row; TRL keeps the line end behind the turn, which no engine generates.
    theirs = apply_chat_template(maybe_extract_prompt(row), tokenizer)
    assert theirs == {"prompt": group.prompt.text, "chosen": "good<|im_end|>\n", "rejected": "bad<|im_end|>\n"}


@pytest.mark.parametrize(
    ("template", "eos", "answer"),
    [
        (CHATML, "<eos>", "good<|im_end|>"),
        (CHATML.replace("<|im_end|>\n", "<|im_end|>\n<eos>"), "<eos>", "good<|im_end|>"),
        (CHATML.replace("<|im_end|>\n", "\n"), "<eos>", "good\n<eos>"),
        (CHATML.replace("<|im_end|>\n", ""), "<eos>", "good<eos>"),
        (CHATML.replace("<|im_end|>\n", "<eos>"), "<eos>", "good<eos>"),
    ],
)
def test_how_templates_close_a_turn(write, template, eos, answer):
    tokenizer = chat_tokenizer(template, eos)
    (group,) = Examples(Preferences(write(SAME[0])), tokenizer, 1, 0).rankings(0)
    assert tokenizer.decode(group.episodes[0].trained_ids.tolist()) == answer


def test_a_template_that_cannot_serve(write):
    task = Preferences(write(SAME[0]))
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 1: is a conversation, and this model's tokenizer has no chat template"):
        Examples(task, chat_tokenizer(None), 1, 0)
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 1: the tokenizer's chat template refuses the conversation: no user"):
        Examples(task, chat_tokenizer("{{ raise_exception('no user') }}"), 1, 0)
    counting = "{{ messages | length }}" + CHATML
    with pytest.raises(UserError, match=r"line 1: with an answer, the tokenizer's chat template writes the prompt otherwise"):
        Examples(task, chat_tokenizer(counting), 1, 0).rankings(0)


def test_prompts_of_a_jsonl_file_may_be_conversations_too(write):
    task = Jsonl(write({"prompt": [ASK], "answer": "good"}, {"prompt": "plain", "answer": "a"}))
    tokenizer = chat_tokenizer()
    prompts = tokenize(task.examples(), tokenizer)
    assert [tokenizer.decode(list(p.token_ids)) for p in prompts] == ["<|im_start|>user\nask<|im_end|>\n<|im_start|>assistant\n", "plain"]
    groups = Examples(task, tokenizer, 2, 0).demonstrations(0)
    assert {tokenizer.decode(g.episodes[0].trained_ids.tolist()) for g in groups} == {"good<|im_end|>", "a<|im_end|>"}


# Rankings of a step


def countdown_rows(*answers: tuple[str, ...]) -> list[dict]:
    return [{"prompt": f"{i},1=2:", "answers": list(a)} for i, a in enumerate(answers)]


def test_rankings_are_dealt_like_prompts_best_first_and_closed(write):
    path = write(*countdown_rows(("1+1", "2"), ("3-1", "4-2", "7")))
    examples = Examples(Preferences(path, answers="answers"), TOKENIZER, 1, 0)
    dealt = [examples.rankings(step)[0] for step in range(2)]
    assert [g.prompt for g in dealt] == [examples.prompts(step)[0] for step in range(2)]
    ranked = {g.prompt.id: [TOKENIZER.decode(e.trained_ids.tolist()) for e in g.episodes] for g in dealt}
    assert ranked == {"line-1": ["1+1<eos>", "2<eos>"], "line-2": ["3-1<eos>", "4-2<eos>", "7<eos>"]}
    assert [g.episodes[0].text for g in examples.demonstrations(0)] == [dealt[0].episodes[0].text]


def test_no_side_of_a_ranking_is_cut(write):
    path = write(*countdown_rows(("1", "2"), ("1+1", "2"), ("2", "1+1+1"), ("1234567", "3")))
    stop, drop = (Preferences(path, answers="answers", too_long=word) for word in ("stop", "drop"))
    with pytest.raises(
        UserError,
        match=r"pairs\.jsonl, line 3: answers\[1\] has 6 tokens, its end token included; sampling\.max_tokens is "
        r"4; raise it, .*task\.too_long: drop",
    ):
        Examples(stop, TOKENIZER, 1, 0, max_tokens=4)
    examples = Examples(drop, TOKENIZER, 2, 0, max_tokens=4)
    assert examples.dropped == 2
    assert {g.prompt.id for g in examples.rankings(0)} == {"line-1", "line-2"}
    assert (Examples(drop, TOKENIZER, 2, 0, max_tokens=8).dropped, Examples(drop, TOKENIZER, 2, 0).dropped) == (0, 0)
    with pytest.raises(UserError, match=r"every one of 4 rankings has an answer beyond sampling\.max_tokens, 1"):
        Examples(drop, TOKENIZER, 1, 0, max_tokens=1)


def test_held_out_rankings_keep_the_order_of_the_file(write):
    held = write(*countdown_rows(("1", "2"), ("1+1+1", "2"), ("4", "5")), name="held.jsonl")
    task = Preferences(write(*countdown_rows(("1", "3"))), eval_path=held, answers="answers", too_long="drop")
    assert [g.prompt.id for g in held_out_rankings(task, TOKENIZER)] == ["line-1", "line-2", "line-3"]
    assert [g.prompt.id for g in held_out_rankings(task, TOKENIZER, max_tokens=4)] == ["line-1", "line-3"]
    assert held_out_rankings(Countdown(), TOKENIZER) == []
    with pytest.raises(UserError, match=r"held\.jsonl, line 2: answers\[0\] has 6 tokens"):
        held_out_rankings(Preferences("unread", eval_path=held, answers="answers"), TOKENIZER, max_tokens=4)


def test_what_has_no_order_is_named(write):
    with pytest.raises(UserError, match=r"example train-\d+ has 0 answers in order of preference; .*`align pairs` draws them"):
        Examples(Countdown(size=3), TOKENIZER, 1, 0).rankings(0)
    trimmed = chat_tokenizer(CHATML.replace("m.content", "m.content | trim"))
    task = Preferences(write({"prompt": [ASK], "chosen": "a", "rejected": " a"}))
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 1: two answers become the same tokens, so neither can be preferred"):
        Examples(task, trimmed, 1, 0).rankings(0)
