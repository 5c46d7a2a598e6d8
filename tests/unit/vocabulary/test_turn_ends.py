"""A turn whose closing token is not the tokenizer's end token: answers end there in training, in engines, and in what is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.own_tokenizers import CHATML, byte_tokenizer, saved
from transformers import AutoTokenizer, GenerationConfig
from unit.runs.test_initial import build

from align.engines import Sampling
from align.engines.scripted import Scripted
from align.engines.transformers import Transformers
from align.experience.examples import Examples, tokenize
from align.tasks import Example
from align.train import train
from align.types import Prompt
from align.vocabulary.ends import closing, turn_end
from align.vocabulary.model_folder import checked
from align.vocabulary.words import Words

LLAMA3 = (
    "{{ '<|begin|>' }}{% for m in messages %}<|start_header|>{{ m.role }}<|end_header|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header|>assistant<|end_header|>\n\n{% endif %}"
)
GEMMA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPACED = CHATML.replace("{{ m['content'] }}<|im_end|>", "{{ m['content'] }}\n<|im_end|>")
THINKING = CHATML.replace("{{ m['content'] }}", "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}")


class Few:
    max_prompt_tokens = None
    too_long = "stop"

    def __init__(self, *examples: Example):
        self._examples = examples

    def examples(self):
        return self._examples


@pytest.mark.parametrize(
    ("template", "specials", "end", "closes"),
    [
        (CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>", "<|im_end|>"),
        (LLAMA3, ("<|begin|>", "<|start_header|>", "<|end_header|>", "<|eot_id|>"), "<|eot_id|>", "<|eot_id|>"),
        (GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", "<end_of_turn>"),
        (PHI, ("<|user|>", "<|assistant|>", "<|end|>"), "<|end|>", "<|end|>"),
        (SPACED, ("<|im_start|>", "<|im_end|>"), "<|im_end|>", "\n<|im_end|>"),
        (THINKING, ("<|im_start|>", "<|im_end|>", "<think>", "</think>"), "<|im_end|>", "<|im_end|>"),
        (CHATML.replace("<|im_end|>", "<eos>"), ("<|im_start|>",), "<eos>", "<eos>"),
    ],
    ids=["chatml", "llama-3", "gemma", "phi", "line-before-end", "thinking", "eos"],
)
def test_the_end_of_a_turn_is_read_from_the_template(template: str, specials: tuple[str, ...], end: str, closes: str):
    tokenizer = byte_tokenizer(("<eos>", *specials), eos="<eos>", template=template)
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == end and tokenizer.decode(closing(tokenizer)) == closes
    row = Example(id="1", text="", messages=({"role": "user", "content": "hi"},), answer="hello", ranked=("hello", "bye"))
    (group,) = Examples(Few(row), tokenizer, 1, 0).demonstrations(0)
    said = tokenizer.decode(group.episodes[0].trained_ids.tolist())
    assert said.endswith("hello" + closes) and said.count(end) == 1
    (pair,) = Examples(Few(row), tokenizer, 1, 0).rankings(0)
    assert [e.trained_ids[-1] for e in pair.episodes] == [turn_end(tokenizer)] * 2


def test_an_added_token_that_is_not_marked_special_ends_a_turn_too():
    tokenizer = byte_tokenizer(("<eos>",), eos="<eos>", template=CHATML)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"])
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == "<|im_end|>"


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m.content }}\n{% endfor %}", "{{ raise_exception('never') }}"])
def test_a_turn_that_no_token_closes_ends_with_the_end_token(template: str | None):
    tokenizer = byte_tokenizer(("<eos>",), eos="<eos>", template=template)
    assert turn_end(tokenizer) is None and closing(tokenizer) == []


def test_an_answer_that_ends_with_a_tag_keeps_the_end_of_its_turn():
    tokenizer = byte_tokenizer(("<eos>", "<|im_start|>", "<|im_end|>", "</answer>"), eos="<eos>", template=CHATML)
    row = Example(id="1", text="", messages=({"role": "user", "content": "hi"},), answer="4</answer>")
    (group,) = Examples(Few(row), tokenizer, 1, 0).demonstrations(0)
    assert tokenizer.decode(group.episodes[0].trained_ids.tolist()) == "4</answer><|im_end|>"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A base model: it ends with <|endoftext|>, and its template's turns with <|im_end|> (258)."""
    return saved(tmp_path_factory.mktemp("base"), byte_tokenizer(template=CHATML))


def test_it_is_told_in_one_line_unless_the_folder_says_it(base: Path, tmp_path: Path):
    (note,) = checked(str(base), AutoTokenizer.from_pretrained(base))
    assert "ends with <|im_end|> (258), which is no end token of this model (<|endoftext|> (256))" in note
    instructed = saved(tmp_path, byte_tokenizer(template=CHATML), generation={"eos_token_id": [256, 258]})
    assert checked(str(instructed), AutoTokenizer.from_pretrained(instructed)) == []


def test_engines_stop_there(base: Path):
    assert Words(str(base), AutoTokenizer.from_pretrained(base)).ends == [258, 256]
    engine = Scripted(answers=("ab",), device="cpu").start(str(base), Sampling(max_tokens=8), 4)
    asked = Prompt(id="1", text="x", token_ids=(5,), messages=({"role": "user", "content": "x"},))
    (group,) = engine.generate([asked], 1, [0])
    assert group.episodes[0].trained_ids[-1] == 258 and group.episodes[0].text == "ab"


def test_the_sampler_stops_there(base: Path):
    engine = Transformers(device="cpu").start(str(base), Sampling(max_tokens=8), 4)

    def only_the_end(module, given, out):
        out.logits[..., 258] = 1e4

    engine._model.register_forward_hook(only_the_end)
    (group,) = engine.generate([Prompt(id="1", text="", token_ids=(5,))], 1, [0])
    (answer,) = group.episodes
    assert answer.trained_ids.tolist() == [258] and answer.finished and answer.text == ""


@pytest.mark.parametrize("conversation", [True, False], ids=["conversations", "plain"])
def test_the_trained_model_says_so(base: Path, tmp_path: Path, conversation: bool):
    prompt = [{"role": "user", "content": "hi"}] if conversation else "hi"
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": prompt, "answer": "ok"}) + "\n")
    recipe = build({"path": str(base)}, steps=1, batch={"prompts": 1}, task={"name": "jsonl", "path": str(tmp_path / "rows.jsonl")})
    train(recipe, tmp_path / "run")
    folder = tmp_path / "run" / "model"
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [258, 256]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == ("<|im_end|>" if conversation else "<|endoftext|>")
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab() and tokenizer.chat_template == CHATML
    (asked,) = tokenize([Example(id="1", text="hi")], tokenizer)
    assert len(asked.token_ids) == 2
