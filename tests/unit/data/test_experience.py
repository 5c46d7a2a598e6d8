"""Which examples a step sees, and what becomes of a demonstration."""

import pytest

from align.errors import RecipeError, UserError
from align.experience.examples import Examples, example_indices, tokenize
from align.tasks import Example
from align.tasks.countdown import Countdown

TOKENIZER = Countdown().tokenizer()


class Few:
    max_prompt_tokens = None

    def __init__(self, *examples: Example):
        self._examples = examples

    def examples(self):
        return self._examples


def test_every_example_comes_once_an_epoch_in_another_order_each_time():
    dealt = [i for step in range(20) for i in example_indices(step, 5, 10, seed=0)]
    epochs = [dealt[i : i + 10] for i in range(0, 100, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10
    assert dealt != [i for step in range(20) for i in example_indices(step, 5, 10, seed=1)]


def test_a_step_depends_on_nothing_before_it():
    forwards = [example_indices(step, 7, 10, seed=3) for step in range(9)]
    assert [example_indices(step, 7, 10, seed=3) for step in reversed(range(9))] == forwards[::-1]


def test_a_prompt_keeps_its_first_token_and_a_demonstration_ends_with_the_end_token():
    (group,) = Examples(Few(Example(id="a", text="1,2=3:", answer="1+2")), TOKENIZER, 1, 0).demonstrations(0)
    assert TOKENIZER.convert_ids_to_tokens(group.prompt.token_ids) == ["<bos>", *"1,2=3:"]
    assert TOKENIZER.convert_ids_to_tokens(group.episodes[0].trained_ids.tolist()) == [*"1+2", "<eos>"]
    assert group.episodes[0].sampler_logp is None


def test_a_closing_end_token_is_not_part_of_a_prompt():
    class Closing:
        eos_token_id, eos_token, bos_token_id = 2, "</s>", None

        def __call__(self, texts):
            return {"input_ids": [[1, 5, 2] for _ in texts]}

    assert tokenize([Example(id="a", text="x")], Closing())[0].token_ids == (1, 5)


def test_what_cannot_be_learned_from_is_named():
    with pytest.raises(RecipeError, match="gives no examples"):
        Examples(Few(), TOKENIZER, 1, 0)
    with pytest.raises(UserError, match="example b has no answer"):
        Examples(Few(Example(id="b", text="1")), TOKENIZER, 1, 0).demonstrations(0)


def test_a_prompt_without_tokens_is_named():
    class Unreading:
        eos_token_id, eos_token, bos_token_id = 2, "</s>", None

        def __call__(self, texts):
            return {"input_ids": [[] for _ in texts]}

    with pytest.raises(UserError, match=r"rows.jsonl, line 3: the tokenizer makes no tokens of the prompt 'x'"):
        tokenize([Example(id="a", text="x", where="rows.jsonl, line 3")], Unreading())
