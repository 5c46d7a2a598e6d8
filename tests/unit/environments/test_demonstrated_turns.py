"""Demonstrations with a tool's turn: their tokens are those of a rollout that says the same, and the tool's are not trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.own_tokenizers import CHATML, byte_tokenizer
from transformers import AutoTokenizer
from unit.environments.playing import playing, turns

from align.config.nodes import build_part
from align.errors import UserError
from align.experience.examples import Examples
from align.experience.packing import pack
from align.tasks import Example
from align.tasks.countdown import Countdown

CALLS = {"name": "calculator", "opens": "", "closes": ":", "reply": "={}:", "error": "s"}


def task(**keys) -> Countdown:
    return Countdown(demonstrations=True, size=40, sort_share=0.25, **keys)


def test_a_draft_is_of_the_numbers_and_its_value_is_right():
    drafted = [e for e in task(calls=1.0).examples() if e.fields["skill"] == "countdown"]
    assert len(drafted) == 30
    for e in drafted:
        (who, call), (tool, value) = e.turns
        assert (who, tool) == ("assistant", "tool") and call.endswith(":") and value == f"={eval(call[:-1])}:"
        assert sorted(int(n) for n in call[:-1].replace("-", "+").split("+")) == e.fields["numbers"]


def test_the_other_demonstrations_do_not_change():
    plain, some = task().examples(), task(calls=0.5).examples()
    assert [(e.text, e.answer) for e in plain] == [(e.text, e.answer) for e in some]
    assert not any(e.turns for e in plain) and 5 < sum(bool(e.turns) for e in some) < 25


def test_the_tokens_are_those_of_a_rollout_that_says_the_same(folder: Path):
    examples = Examples(task(calls=1.0), AutoTokenizer.from_pretrained(folder), 8, 0)
    by_id = {e.id: e for e in examples.examples}
    for group in examples.demonstrations(0):
        (shown,) = group.episodes
        example = by_id[group.prompt.id]
        said = [*(text for role, text in example.turns if role == "assistant"), example.answer]
        engine = playing(folder, lambda p, s, said=said: said["/" in p.id], environment=CALLS)
        assert turns(shown) == turns(engine.generate([group.prompt], 1, [3])[0].episodes[0])
        assert [s.trained for s in shown.segments] == ([True, False, True] if example.turns else [True])


def test_a_batch_of_them_trains_the_assistants_tokens():
    given = task(calls=1.0, echo_chance=0.0)
    groups = Examples(given, given.tokenizer(), 8, 0).demonstrations(0)
    batch = pack(groups, None)
    trained = [t for g in groups for e in g.episodes for s in e.segments if s.role == "assistant" for t in s.token_ids.tolist()]
    assert batch.tokens.tolist() == trained and batch.sampler_logp is None
    assert int(batch.totals.sum()) == sum(len(g.prompt.token_ids) + len(e.response_ids) for g in groups for e in g.episodes)


def test_the_length_limit_is_of_a_turn():
    given = task(calls=1.0, echo_chance=0.0)
    examples = Examples(given, given.tokenizer(), 8, 0)
    examples.fit_demonstrations(given, 10)  # nine tokens of a draft, eight or ten of an answer
    with pytest.raises(UserError, match="the answer has 10 tokens"):
        examples.fit_demonstrations(given, 9)


class Chats(Countdown):
    def examples(self):
        turns = (("assistant", "<calc>2+3</calc>"), ("tool", "5"))
        return [Example(id="0", text="2+3?", messages=({"role": "user", "content": "2+3?"},), answer="five", turns=turns)]


def test_a_conversation_has_the_templates_markers_between_its_turns():
    tokenizer = byte_tokenizer(template=CHATML, eos="<|im_end|>")
    (group,) = Examples(Chats(), tokenizer, 1, 0).demonstrations(0)
    whole = tokenizer.decode([*group.prompt.token_ids, *group.episodes[0].response_ids.tolist()])
    said = [
        {"role": "assistant", "content": "<calc>2+3</calc>"},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "five"},
    ]
    assert whole + "\n" == tokenizer.apply_chat_template([{"role": "user", "content": "2+3?"}, *said], tokenize=False)
    assert tokenizer.decode(group.episodes[0].trained_ids) == "<calc>2+3</calc><|im_end|>five<|im_end|>"


def test_a_share_without_demonstrations_changes_nothing():
    with pytest.raises(Exception, match="calls changes nothing without demonstrations: true"):
        build_part("task", {"name": "countdown", "calls": 0.5}, "task")
