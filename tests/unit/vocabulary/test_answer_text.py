"""What a reward reads of an answer: tags that are special tokens, and no token that steers the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.own_tokenizers import CHATML, byte_tokenizer, saved
from transformers import AutoTokenizer

from align.engines import Sampling
from align.engines.scripted import Scripted
from align.types import Prompt
from align.vocabulary.answer_text import AnswerText
from align.vocabulary.model_folder import checked

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
ALL = ("<|endoftext|>", "<s>", "<pad>", "<|im_start|>", "<|im_end|>", *TAGS, "<tool_call>", "<|fim|>")
THINKING = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")


@pytest.mark.parametrize("template", [None, CHATML, THINKING])
def test_tags_are_text_and_control_tokens_are_not(template: str | None):
    tokenizer = byte_tokenizer(ALL, bos="<s>", pad="<pad>", template=template)
    text = AnswerText(tokenizer)
    ids = tokenizer("<think>x</think><answer>4</answer><tool_call><|fim|>é<|endoftext|><pad>", add_special_tokens=False)["input_ids"]
    assert text.one(ids) == "<think>x</think><answer>4</answer><tool_call><|fim|>é"
    assert text.tags == tuple(sorted(TAGS))
    control = tokenizer("<|im_start|>a<|im_end|>", add_special_tokens=False)["input_ids"]
    assert text.one(control) == ("a" if template else "<|im_start|>a<|im_end|>")
    assert text.many([ids, [], control[1:2]]) == [text.one(ids), "", "a"]


def test_other_ends_of_the_generation_config_are_no_text():
    tokenizer = byte_tokenizer(("<|endoftext|>", "<|eom|>"))
    assert AnswerText(tokenizer, [256, 257]).one(tokenizer("a<|eom|>")["input_ids"]) == "a"
    assert AnswerText(tokenizer, 256).one(tokenizer("a<|eom|>")["input_ids"]) == "a<|eom|>"


def test_without_special_tokens_it_is_what_the_tokenizer_decodes():
    tokenizer = byte_tokenizer()
    ids = tokenizer("a b, ü <|endoftext|>")["input_ids"]
    assert AnswerText(tokenizer).one(ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_an_engine_gives_tags_to_the_reward_and_the_run_tells_it(tmp_path: Path):
    folder = saved(tmp_path, byte_tokenizer(("<|endoftext|>", *TAGS)))
    engine = Scripted(answers=("<think>x</think>",), device="cpu").start(str(folder), Sampling(max_tokens=8), 4)
    (group,) = engine.generate([Prompt(id="1", text="a", token_ids=(5,))], 1, [0])
    assert group.episodes[0].text == "<think>x</think>" and group.episodes[0].length == 4
    (note,) = checked(str(folder), AutoTokenizer.from_pretrained(folder))
    assert note == "model: rewards read the special tokens </answer>, </think>, <answer>, <think> as text"
