"""Rankings as a step deals them: tokens, their limits and their order."""

import pytest
from unit.preferences.conversations import ASK, CHATML, TOKENIZER, chat_tokenizer

from align.errors import UserError
from align.experience.examples import Examples, held_out_rankings
from align.tasks.countdown import Countdown
from align.tasks.preferences import Preferences


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
