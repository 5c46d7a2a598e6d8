"""Conversations in order of preference: every form of a row, and the chat template around it."""

import pytest
from trl.data_utils import apply_chat_template, maybe_extract_prompt
from unit.preferences.conversations import ASK, BAD, CHATML, GOOD, SAME, chat_tokenizer, said

from align.errors import UserError
from align.experience.examples import Examples, tokenize
from align.tasks import Example
from align.tasks.jsonl import Jsonl
from align.tasks.preferences import Preferences


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
    with pytest.raises(UserError, match=r"line 1: with an answer, the tokenizer's chat template changes the prompt"):
        Examples(task, chat_tokenizer(counting), 1, 0).rankings(0)


def test_prompts_of_a_jsonl_file_may_be_conversations_too(write):
    task = Jsonl(write({"prompt": [ASK], "answer": "good"}, {"prompt": "plain", "answer": "a"}))
    tokenizer = chat_tokenizer()
    prompts = tokenize(task.examples(), tokenizer)
    assert [tokenizer.decode(list(p.token_ids)) for p in prompts] == ["<|im_start|>user\nask<|im_end|>\n<|im_start|>assistant\n", "plain"]
    groups = Examples(task, tokenizer, 2, 0).demonstrations(0)
    assert sorted(tokenizer.decode(g.episodes[0].trained_ids.tolist()) for g in groups) == ["a<|im_end|>", "good<|im_end|>"]
