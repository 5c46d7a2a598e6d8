"""A reward model reads a conversation in its own template, with its own end of a turn, whatever the policy's are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.own_tokenizers import CHATML, byte_tokenizer, saved
from transformers import AutoModelForSequenceClassification

from align.experience.examples import tokenize
from align.rewards.learned import Learned
from align.tasks import Example
from align.types import Episode, Group

OWN = (
    "{% if tools %}({{ tools | length }}){% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIALS = ("<eos>", "<pad>", "<end>", "<think>", "</think>")
ASK = ({"role": "user", "content": "hi"},)


def scorer(folder: Path, template: str | None) -> tuple[Path, object]:
    tokenizer = byte_tokenizer(SPECIALS, eos="<eos>", pad="<pad>", template=template)
    return saved(folder, tokenizer, scorer=True), tokenizer


@torch.no_grad()
def pooled(folder: Path, ids: list[int]) -> float:
    return AutoModelForSequenceClassification.from_pretrained(folder)(input_ids=torch.tensor([ids])).logits.item()


def scores(folder: Path, example: Example, *answers: tuple[str, bool]) -> list:
    """As a policy with a ChatML template asks it."""
    (prompt,) = tokenize([example], byte_tokenizer(template=CHATML.replace("{% for", "{% if tools %}{% endif %}{% for", 1)))
    episodes = tuple(Episode.single_turn(np.zeros(1, np.int32), text, finished=finished) for text, finished in answers)
    return list(Learned(path=str(folder)).start().score_groups([Group(prompt=prompt, episodes=episodes)]))


def test_a_conversation_is_read_in_the_scorers_template(tmp_path: Path):
    folder, tokenizer = scorer(tmp_path, OWN)

    def ids(text: str) -> list[int]:
        return tokenizer(text)["input_ids"]

    row = Example(id="1", text="user: hi", messages=ASK, template={"tools": [{"a": 1}]})
    found = scores(folder, row, ("yes", True), ("yes", False), ("<think>a</think>b", True))
    wanted = ["(1)<user>hi<end>\n<assistant>" + answer for answer in ("yes<end>", "yes", "<think>a</think>b<end>")]
    assert found == pytest.approx([pooled(folder, ids(text)) for text in wanted], abs=1e-5)
    assert len({round(value, 4) for value in found}) == 3
    (spelled,) = scores(folder, row, ("yes<end>", True))
    split = [*ids("(1)<user>hi<end>\n<assistant>yes"), *tokenizer("<end>", split_special_tokens=True)["input_ids"], *ids("<end>")]
    assert spelled == pytest.approx(pooled(folder, split), abs=1e-5), "an answer cannot spell the end of its turn"


def test_without_a_template_it_reads_the_policys_text(tmp_path: Path):
    folder, tokenizer = scorer(tmp_path, None)
    (found,) = scores(folder, Example(id="1", text="user: hi", messages=ASK), ("yes", True))
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<eos>"
    assert found == pytest.approx(pooled(folder, tokenizer(text)["input_ids"]), abs=1e-5)


def test_a_plain_prompt_is_no_conversation(tmp_path: Path):
    folder, tokenizer = scorer(tmp_path, OWN)
    (found,) = scores(folder, Example(id="1", text="hi "), ("yes", True))
    assert found == pytest.approx(pooled(folder, tokenizer("hi yes<eos>")["input_ids"]), abs=1e-5)
