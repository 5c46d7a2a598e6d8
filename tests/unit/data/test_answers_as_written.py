"""What is trained is what the row has: a chat template that writes another text, and end tokens that a row writes itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.own_tokenizers import CHATML, byte_tokenizer

from align.errors import UserError
from align.experience.examples import Examples, tokenize
from align.tasks import Example
from align.tasks.jsonl import Jsonl
from align.vocabulary.ends import closing

CONTENT = "{{ m['content'] }}"
FINAL = "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}"
QWEN3 = (
    "{% if m.role == 'assistant' and '</think>' in m.content %}<think>\n{{ m.content.split('</think>')[0].split('<think>')[-1].strip() }}\n"
    "</think>\n\n{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}"
)


class Few:
    max_prompt_tokens, too_long = None, "stop"

    def __init__(self, *examples: Example):
        self._examples = examples

    def examples(self):
        return self._examples


def chat(answer: str, asked: str = "Hi") -> Example:
    return Example(id="1", text="", messages=({"role": "user", "content": asked},), answer=answer, ranked=(answer, "another"))


def plain(answer: str) -> Example:
    return Example(id="1", text="hi", answer=answer, ranked=(answer, "another"))


def trained(e: Example, content: str = CONTENT) -> str:
    tokenizer = byte_tokenizer(template=CHATML.replace(CONTENT, content))
    examples = Examples(Few(e), tokenizer, 1, 0)
    (demonstration,), (ranking,) = examples.demonstrations(0), examples.rankings(0)
    assert demonstration.episodes[0].trained_ids.tolist() == ranking.episodes[0].trained_ids.tolist()
    text = tokenizer.decode(demonstration.episodes[0].trained_ids.tolist())
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize(
    "content",
    [
        FINAL,
        "{{ m.content[:8] }}",
        "{{ m.content | lower }}",
        "{{ m.content | tojson }}",
        "{% if m.role == 'user' %}{{ m.content }}{% endif %}",
    ],
    ids=["cuts-the-thought", "cuts", "lowercases", "escapes", "leaves-out"],
)
def test_a_template_that_changes_the_answer_is_refused(content: str):
    with pytest.raises(UserError, match="the tokenizer's chat template changes the answer"):
        trained(
            chat('<think>x</think>So, "Four"', "hi"),
            content if "tojson" not in content else FINAL.replace("m.content.split('</think>')[-1]", "m.content | tojson"),
        )


@pytest.mark.parametrize("content", [QWEN3, "{{ m.content | trim }}"], ids=["lines-around-the-thought", "trims"])
def test_a_template_that_changes_white_space_is_not(content: str):
    assert "".join(trained(chat(" <think>x</think>Four\n"), content).split()) == "<think>x</think>Four<|im_end|>"


@pytest.mark.parametrize(
    "template", ["hello", "{% for m in messages %}{{ m.role }}{% endfor %}", CHATML.replace(CONTENT, "{{ m.content[:1] }}")]
)
def test_a_template_that_leaves_out_the_question_is_refused(template: str):
    with pytest.raises(UserError, match="leaves out or changes the last turn, 'Hi'"):
        tokenize([chat("x")], byte_tokenizer(template=template))


def test_the_end_of_a_turn_is_not_read_from_a_turn_that_is_written_otherwise():
    assert closing(byte_tokenizer(template=CHATML.replace(CONTENT, "{{ m.content | lower }}"))) == []


@pytest.mark.parametrize(
    ("e", "text"),
    [
        (plain("four<|endoftext|>"), "four<|endoftext|>"),
        (plain("four<|endoftext|><|endoftext|>"), "four<|endoftext|>"),
        (chat("four<|im_end|>"), "four<|im_end|>"),
        (chat("four<|endoftext|>"), "four<|endoftext|>"),
    ],
)
def test_an_end_token_that_a_row_writes_is_there_once(e: Example, text: str):
    assert trained(e) == text


@pytest.mark.parametrize("e", [plain("fo<|endoftext|>ur"), chat("fo<|im_end|>ur"), chat("fo<|endoftext|>ur")])
def test_an_end_token_inside_an_answer_is_refused(e: Example):
    with pytest.raises(UserError, match=r"has the end token <\|(endoftext|im_end)\|> inside an answer"):
        trained(e)


def test_every_demonstration_is_demanded_before_a_step():
    examples = Examples(Few(*(Example(id=str(i), text="hi", answer=None if i == 99 else "x") for i in range(100))), byte_tokenizer(), 1, 0)
    with pytest.raises(UserError, match="has no answer; demonstrations are needed"):
        examples.demand_demonstrations()


@pytest.mark.parametrize(
    "row", ['{"prompt": "a\\ud83d", "answer": "b"}', '{"prompt": "a", "answer": "\\ude00"}', '{"prompt": "a", "x": [{"\\ud83d": 1}]}']
)
def test_half_of_a_surrogate_pair_is_refused_with_its_line(tmp_path: Path, row: str):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "\\ud83d\\ude00"}\n' + row)
    with pytest.raises(UserError, match=r"rows.jsonl, line 2: has \\u(d83d|de00), half of a surrogate pair"):
        Jsonl(path=str(tmp_path / "rows.jsonl")).examples()


def test_a_row_that_is_nested_too_deep_is_refused_with_its_line(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(UserError, match="line 1: has lists or objects nested deeper than 100"):
        Jsonl(path=str(tmp_path / "rows.jsonl")).examples()
