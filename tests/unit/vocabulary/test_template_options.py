"""What a chat template reads beside the turns: the tools of a row, options of the row and of the recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.own_tokenizers import CHATML, byte_tokenizer

from align.errors import RecipeError, UserError
from align.experience.examples import Examples, tokenize
from align.tasks import Example
from align.tasks.jsonl import Jsonl
from align.tasks.preferences import Preferences

TEMPLATE = (
    "{% if tools %}TOOLS {{ tools | map(attribute='function') | map(attribute='name') | join(',') }} {% endif %}"
    "{% if documents %}DOCUMENTS {{ documents | length }} {% endif %}"
    + CHATML.replace(
        "assistant\n{% endif %}",
        "assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
    )
)
ASK = [{"role": "user", "content": "weather?"}]
TOOL = {"type": "function", "function": {"name": "w", "parameters": {}}}
TOKENIZER = byte_tokenizer(template=TEMPLATE)
OPEN = "<|im_start|>user\nweather?<|im_end|>\n<|im_start|>assistant\n"
OFF = "<think>\n\n</think>\n\n"


def task(tmp_path: Path, *rows: dict, kind: type = Jsonl, **keys):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return kind(path=str(file), **keys)


def prompt_of(given) -> str:
    (prompt,) = tokenize(given.examples(), TOKENIZER)
    assert TOKENIZER.decode(list(prompt.token_ids)) == prompt.text
    return prompt.text


@pytest.mark.parametrize(
    ("row", "keys", "prompt"),
    [
        ({}, {}, OPEN),
        ({"tools": [TOOL]}, {}, f"TOOLS w {OPEN}"),
        ({"tools": json.dumps([TOOL, TOOL])}, {}, f"TOOLS w,w {OPEN}"),
        ({"tools": None}, {}, OPEN),
        ({"tools": []}, {}, OPEN),
        ({"documents": [{"title": "a", "text": "b"}]}, {}, f"DOCUMENTS 1 {OPEN}"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {}, OPEN + OFF),
        ({"enable_thinking": False}, {}, OPEN + OFF),
        ({}, {"template": {"enable_thinking": False}}, OPEN + OFF),
        ({"chat_template_kwargs": {"enable_thinking": True}}, {"template": {"enable_thinking": False}}, OPEN),
        ({"enable_thinking": True}, {"template": {"enable_thinking": False}}, OPEN),
        ({"tools": [TOOL], "unrelated": 3}, {"template": {"enable_thinking": False}}, f"TOOLS w {OPEN}{OFF}"),
    ],
)
def test_what_the_template_reads_reaches_it(tmp_path: Path, row: dict, keys: dict, prompt: str):
    assert prompt_of(task(tmp_path, {"prompt": ASK} | row, **keys)) == prompt


def test_a_pair_has_them_too(tmp_path: Path):
    row = {"prompt": ASK, "chosen": "a", "rejected": "b", "tools": [TOOL]}
    given = task(tmp_path, row, kind=Preferences, template={"enable_thinking": False})
    (group,) = Examples(given, TOKENIZER, 1, 0).rankings(0)
    assert group.prompt.text == f"TOOLS w {OPEN}{OFF}"
    assert [TOKENIZER.decode(e.trained_ids.tolist()) for e in group.episodes] == ["a<|im_end|>", "b<|im_end|>"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"chat_template_kwargs": {"enable_thinkin": False}}, "does not read enable_thinkin, .* reads documents, enable_thinking, tools"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs must be an object"),
        ({"tools": {"a": 1}}, "tools must be a list"),
        ({"tools": "[{"}, "tools is a text that is not JSON"),
    ],
)
def test_what_cannot_reach_it_is_refused(tmp_path: Path, row: dict, says: str):
    with pytest.raises(UserError, match=rf"rows\.jsonl, line 1: .*{says}"):
        prompt_of(task(tmp_path, {"prompt": ASK} | row))


def test_tools_for_a_template_without_tools_are_refused(tmp_path: Path):
    given = task(tmp_path, {"prompt": ASK, "tools": [TOOL]})
    with pytest.raises(UserError, match=r"line 1: the tokenizer's chat template does not read tools, .* it reads the turns alone"):
        tokenize(given.examples(), byte_tokenizer(template=CHATML))


def test_options_of_the_recipe_need_a_conversation(tmp_path: Path):
    for kind, row in ((Jsonl, {"prompt": "a"}), (Preferences, {"prompt": "a", "chosen": "b", "rejected": "c"})):
        with pytest.raises(RecipeError, match=r"task.template: changes nothing: no prompt is a conversation"):
            task(tmp_path, row, kind=kind, template={"enable_thinking": False}).examples()


def test_columns_that_a_template_reads_are_told_and_those_without_one(tmp_path: Path):
    rows = [{"prompt": ASK, "enable_thinking": False}, {"prompt": "plain", "tools": [TOOL]}]
    notes = Examples(task(tmp_path, *rows), TOKENIZER, 1, 0).notes
    assert notes == [
        "task: the chat template reads enable_thinking of the rows",
        "task: prompts of plain text get no chat template, so their tools reach the reward alone",
    ]


def test_null_entries_of_a_table_are_no_part_of_a_tool(tmp_path: Path):
    tool = {"type": "function", "function": {"name": "w", "parameters": {"city": None, "day": {"type": "string", "enum": None}}}}
    (example,) = task(tmp_path, {"prompt": ASK, "tools": [tool]}).examples()
    assert example.template["tools"][0]["function"]["parameters"] == {"day": {"type": "string"}}


def test_a_turn_that_calls_a_tool_needs_no_content(tmp_path: Path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "w", "arguments": {}}}]}
    (example,) = task(tmp_path, {"prompt": [*ASK, call, {"role": "tool", "content": "sun"}]}).examples()
    assert example.messages[1]["content"] == ""


def test_a_marked_generation_is_no_obstacle():
    template = TEMPLATE.replace("{{ m['content'] }}", "{% generation %}{{ m['content'] }}{% endgeneration %}")
    row = Example(id="1", text="", messages=tuple(ASK), template={"enable_thinking": False})
    assert tokenize([row], byte_tokenizer(template=template))[0].text == OPEN + OFF
