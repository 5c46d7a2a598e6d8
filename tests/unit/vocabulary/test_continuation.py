"""An answer's tokens continue its prompt: together they spell both, and the prompt's are unchanged."""

from __future__ import annotations

import pytest
from helpers.own_tokenizers import CHATML, by_word, byte_tokenizer, metaspace, prepending

from align.experience.examples import Examples, tokenize
from align.tasks import Example
from align.vocabulary.continuation import Continuation

MERGES = (("\u2581", "a"), ("=", "="), ("4", "\u2581"))
TOKENIZERS = {
    "first": metaspace("first", MERGES),
    "always": metaspace("always", MERGES),
    "never": metaspace("never", MERGES),
    "prepend": prepending(MERGES),
    "t5": by_word(),
    "bytes": byte_tokenizer(),
    "bytes-prefix": byte_tokenizer(add_prefix_space=True),
}
TEXTS = [("2+2=", "4"), ("2+2=", "=4"), ("say", " a b"), ("x", "a b c"), ("one: ", "a"), ("q=", "four a"), ("a b", "c"), ("a", "=4 =4")]


class Few:
    max_prompt_tokens = None
    too_long = "stop"

    def __init__(self, *examples: Example):
        self._examples = examples

    def examples(self):
        return self._examples


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(("prompt", "answer"), TEXTS)
def test_prompt_and_answer_spell_both(name: str, prompt: str, answer: str):
    tokenizer = TOKENIZERS[name]
    if name == "t5" and prompt.endswith(" "):
        answer = " " + answer  # this kind drops a space before a word's end, so a prompt cannot end with one
    row = Example(id="1", text=prompt, answer=answer, ranked=(answer, answer + "?"))
    examples = Examples(Few(row), tokenizer, 1, 0)
    (shown,), (pair,) = examples.demonstrations(0), examples.rankings(0)
    alone = tokenizer(prompt)["input_ids"]
    for group, texts in ((shown, [answer]), (pair, [answer, answer + "?"])):
        assert list(group.prompt.token_ids) == alone
        for episode, text in zip(group.episodes, texts, strict=True):
            assert episode.trained_ids[-1] == tokenizer.eos_token_id
            whole = tokenizer.decode([*alone, *episode.trained_ids[:-1].tolist()])
            assert " ".join(whole.split(" ")).strip() == (prompt + text).replace("  ", " " if name == "t5" else "  ").strip()


@pytest.mark.parametrize("name", ["first", "always", "prepend", "t5", "bytes-prefix"])
def test_an_answer_begins_with_no_space_of_its_own(name: str):
    tokenizer = TOKENIZERS[name]
    (ids,) = Continuation(tokenizer).many([("2+2=", "4")])
    assert tokenizer.convert_ids_to_tokens(ids) == ["4"]


def test_where_prompt_and_answer_merge_the_prompt_keeps_its_tokens():
    tokenizer = TOKENIZERS["first"]
    (together,) = Continuation(tokenizer).many([("2+2=", "=4")])
    assert tokenizer.convert_ids_to_tokens(together) == ["=", "4"], "not the one token == of both"


def test_a_conversation_is_continued_too():
    tokenizer = metaspace("first")
    tokenizer.chat_template = CHATML.replace("<|im_start|>", "[").replace("<|im_end|>", "</s>").replace("\n", "]")
    row = Example(id="1", text="", messages=({"role": "user", "content": "hi"},), answer="yes")
    (group,) = Examples(Few(row), tokenizer, 1, 0).demonstrations(0)
    assert tokenizer.convert_ids_to_tokens(group.episodes[0].trained_ids.tolist()) == [*"yes", "</s>"]


def test_without_special_tokens_but_tags():
    tokenizer = byte_tokenizer(("<|endoftext|>", "<think>"))
    (ids,) = Continuation(tokenizer, split_special_tokens=True, tags=("<think>",)).many([("a", "<think>b<|endoftext|>")])
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens[0] == "<think>" and "<|endoftext|>" not in tokens and tokenizer.decode(ids) == "<think>b<|endoftext|>"


def test_a_prompt_that_begins_with_the_token_that_is_added_has_it_once():
    tokenizer = byte_tokenizer(("<|endoftext|>", "<s>"), bos="<s>")
    rows = [Example(id="1", text="<s>a"), Example(id="2", text="a")]
    one, two = tokenize(rows, tokenizer)
    assert one.token_ids == two.token_ids and tokenizer.decode(list(one.token_ids)) == "<s>a"
    (note,) = Examples(Few(*rows), tokenizer, 1, 0).notes
    assert note == "task: 1 of 2 prompts begin with <s>, which the tokenizer adds too: they have it once"


def test_an_end_token_that_a_prompt_spells_is_kept_and_one_that_is_added_is_not():
    tokenizer = byte_tokenizer()
    (prompt,) = tokenize([Example(id="1", text="a<|endoftext|>")], tokenizer)
    assert prompt.token_ids[-1] == tokenizer.eos_token_id
