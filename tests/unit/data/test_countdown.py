"""The embedded task: a stable world, nothing held out is trained on, right demonstrations, and metrics worked out by hand."""

import hashlib
import inspect
import math
import os
import re
import subprocess
import sys
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from transformers import AutoTokenizer

from align.config.nodes import build_part, resolved
from align.errors import RecipeError
from align.rewards.countdown_exact import CountdownExact
from align.tasks._arithmetic import valid_answers
from align.tasks.countdown import Countdown, held_out
from align.types import Episode, Group, Prompt

SFT = Countdown(demonstrations=True, size=4000)


def multiset(example) -> tuple:
    given = re.split("[=:]", example.text.removeprefix("s"))[0]
    return tuple(sorted(map(int, given.split(","))))


def brute_force(numbers, target) -> set[str]:
    """Every string of the right shape over these digits, added up by letting int() read the signs."""
    found = set()
    for places in product(range(4), repeat=4):
        if len(set(places)) == 4:
            for a, b, c in product("+-", repeat=3):
                w, x, y, z = (numbers[i] for i in places)
                text = f"{w}{a}{x}{b}{y}{c}{z}"
                if sum(map(int, re.findall(r"[+-]?\d", text))) == target:
                    found.add(text)
    return found


def digest(task: Countdown) -> str:
    suites = task.suites(50)
    return hashlib.sha256(repr([task.examples(), suites["countdown"], suites["sort"]]).encode()).hexdigest()


@pytest.mark.parametrize("numbers", [(3, 5, 7, 9), (1, 1, 1, 1), (2, 2, 9, 4), (8, 3, 8, 3), (9, 1, 6, 5)])
def test_valid_answers_are_those_of_brute_force(numbers):
    for target in range(-2, 37):
        assert valid_answers(numbers, target) == brute_force(numbers, target)


def test_valid_answers_counted_by_hand():
    # 24 - 14 = 10 is twice what is subtracted: the 5 alone, so any of the others leads: 3 * 3!.
    assert len(valid_answers((3, 5, 7, 9), 14)) == 18
    assert valid_answers((1, 1, 1, 1), 4) == {"1+1+1+1"}
    assert valid_answers((1, 2, 3, 4), 1) == frozenset()


def test_every_problem_has_the_written_form_and_a_right_demonstration():
    exact, lengths = CountdownExact(), []
    for e in SFT.examples():
        shape = r"s\d(,\d){4}:" if e.fields["skill"] == "sort" else r"[1-9](,[1-9]){3}=(0|[1-9]\d?):"
        assert re.fullmatch(shape, e.text)
        if e.fields["skill"] == "countdown":
            expression, *echoes = e.answer.split("=")
            assert expression in brute_force(multiset(e), e.fields["target"])
            assert set(echoes) <= {str(e.fields["target"])}
            assert e.text.endswith(f"={e.fields['target']}:")
        prompt = Prompt(id=e.id, text=e.text, token_ids=(), fields=e.fields)
        assert exact.score(prompt, e.answer) == 1.0
        lengths.append(len(e.answer) + 1)
    assert max(lengths) <= 24


def test_the_given_numbers_are_in_order_and_the_answer_in_any():
    asked = [e for e in SFT.examples() if e.fields["skill"] == "countdown" and len(set(e.fields["numbers"])) == 4]
    assert all(e.fields["numbers"] == sorted(e.fields["numbers"]) for e in asked)
    # Each of the 24 orders of four numbers is as likely in an answer.
    same = sum(list(map(str, e.fields["numbers"])) == re.findall(r"\d", e.answer.split("=")[0]) for e in asked)
    assert abs(same - len(asked) / 24) < 4 * math.sqrt(len(asked) * 23) / 24


def test_questions_have_no_answers_and_no_sorting():
    examples = Countdown(size=300).examples()
    assert len(examples) == 300
    assert {e.answer for e in examples} == {None}
    assert {e.fields["skill"] for e in examples} == {"countdown"}


@pytest.mark.parametrize(("share", "sorts"), [(0.25, 100), (0.0, 0), (1.0, 400), (0.5, 200)])
def test_the_share_of_sorting_is_exact(share, sorts):
    examples = Countdown(demonstrations=True, size=400, sort_share=share).examples()
    assert sum(e.fields["skill"] == "sort" for e in examples) == sorts


@pytest.mark.parametrize("chance", [0.0, 0.4, 0.7, 1.0])
def test_each_further_echo_has_the_chance_of_the_recipe(chance):
    size = 4000
    examples = Countdown(demonstrations=True, size=size, sort_share=0.0, echo_chance=chance).examples()
    echoes = np.array([e.answer.count("=") for e in examples])
    assert echoes.max() <= 5
    for count in range(5):
        reached = (echoes >= count).sum()
        further = (echoes > count).sum()
        assert abs(further - chance * reached) <= 4 * math.sqrt(chance * (1 - chance) * reached)


def test_a_demonstration_is_uniform_over_the_right_answers():
    ranks = []
    for e in Countdown(demonstrations=True, sort_share=0.0, size=4000).examples():
        answers = sorted(valid_answers(e.fields["numbers"], e.fields["target"]))
        ranks.append((answers.index(e.answer.split("=")[0]) + 0.5) / len(answers))
    assert abs(np.mean(ranks) - 0.5) < 4 * math.sqrt(1 / 12 / len(ranks))
    # A quarter each, but that a problem with 6 answers has one or two in a quarter.
    observed, _ = np.histogram(ranks, bins=4, range=(0, 1))
    assert observed.min() > 0.2 * len(ranks)


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("demonstrations", [False, True])
def test_nothing_held_out_is_trained_on(seed, demonstrations):
    task = Countdown(seed=seed, demonstrations=demonstrations, size=3000)
    trained = {multiset(e) for e in task.examples()}
    for other_seed in (seed, seed + 1):
        for suite in Countdown(seed=other_seed).suites(400).values():
            tested = {multiset(e) for e in suite}
            assert len(tested) > 20
            assert not trained & tested


def test_a_seventh_of_the_multisets_is_held_out_in_any_order():
    countdown = list(combinations_with_replacement(range(1, 10), 4))
    sort = list(combinations_with_replacement(range(10), 5))
    for multisets in (countdown, sort):
        kept = sum(map(held_out, multisets))
        assert abs(kept - len(multisets) / 7) < 3 * math.sqrt(len(multisets) * 6 / 49)
        assert all(held_out(m[::-1]) == held_out(m) for m in multisets)


def test_suites_are_distinct_and_the_beginning_of_longer_ones():
    short, long = SFT.suites(100), SFT.suites(300)
    assert set(short) == {"countdown", "sort"}
    for name, examples in long.items():
        assert len({e.text for e in examples}) == len({e.id for e in examples}) == len(examples) == 300
        assert examples[:100] == short[name]
        assert {e.fields["skill"] for e in examples} == {name}
    assert short == Countdown().suites(100)
    assert short != Countdown(seed=1).suites(100)


def test_ids_differ():
    assert len({e.id for e in SFT.examples()}) == 4000


def test_another_process_sees_the_same_world():
    program = (
        f"import hashlib\nfrom align.tasks.countdown import Countdown\n{inspect.getsource(digest)}\n"
        "print(digest(Countdown(demonstrations=True, size=4000)))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == digest(SFT)
    assert digest(SFT) != digest(Countdown(demonstrations=True, size=4000, seed=1))


def group(fields: dict, *texts: str) -> Group:
    prompt = Prompt(id="p", text="?", token_ids=(1,), fields=fields)
    return Group(prompt=prompt, episodes=tuple(Episode.single_turn(np.zeros(len(t) + 1, np.int32), t) for t in texts))


def test_judge_countdown_by_hand():
    reach_14 = {"skill": "countdown", "numbers": [3, 5, 7, 9], "target": 14}
    only_way = {"skill": "countdown", "numbers": [1, 1, 1, 1], "target": 4}
    metrics = Countdown().judge(
        "countdown",
        [
            group(reach_14, "9+7+3-5", "9+7+3-5=14", "7+9+3-5", "14"),  # 3 of 4 right, 2 distinct of min(4, 18)
            group(only_way, "1+1+1+1", "1+1+1+1=4", "4", "1+1+1"),  # 2 of 4 right, 1 distinct of min(4, 1)
            group(reach_14, "9+7", "", "9-7", "35"),  # none
        ],
    )
    assert metrics == {
        "pass@1": pytest.approx(5 / 12),
        "pass@4": pytest.approx(2 / 3),
        "coverage": pytest.approx((2 / 4 + 1 + 0) / 3),
        "length": pytest.approx((8 + 11 + 8 + 3 + 8 + 10 + 2 + 6 + 4 + 1 + 4 + 3) / 12),
    }


def test_judge_sort_by_hand():
    fields = {"skill": "sort", "numbers": [7, 3, 5, 1, 9]}
    assert Countdown().judge("sort", [group(fields, "1,3,5,7,9", "1,3,5,7,9,"), group(fields, "9,7,5,3,1", "1,3,5,7")]) == {"pass@1": 0.25}


def test_one_sample_has_one_pass_rate():
    fields = {"skill": "countdown", "numbers": [3, 5, 7, 9], "target": 14}
    metrics = Countdown().judge("countdown", [group(fields, "9+7+3-5"), group(fields, "1")])
    assert metrics == {"pass@1": 0.5, "coverage": 0.5, "length": 5.0}


def test_tokenizer_is_one_character_a_token(tmp_path):
    made = Countdown().tokenizer()
    made.save_pretrained(tmp_path)
    for tokenizer in (made, AutoTokenizer.from_pretrained(tmp_path)):
        order = ["<pad>", "<bos>", "<eos>", *"0123456789", "+", "-", "*", "=", ":", ",", "s"]
        assert len(tokenizer) == tokenizer.vocab_size == 20
        assert tokenizer.convert_ids_to_tokens(range(20)) == order
        assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
        assert tokenizer("s7,0:") == {"input_ids": [1, 19, 10, 18, 3, 17], "attention_mask": [1] * 6}
        assert tokenizer(["3=", "s"])["input_ids"] == [[1, 6, 16], [1, 19]]
        assert tokenizer("9*8+7-6", add_special_tokens=False)["input_ids"] == [12, 15, 11, 13, 10, 14, 9]
        assert tokenizer.decode([12, 15, 11, 13, 10, 14, 9, 2, 0], skip_special_tokens=True) == "9*8+7-6"
        assert tokenizer.decode([1, 6, 2]) == "<bos>3<eos>"
        for text in [t for e in SFT.examples()[:200] for t in (e.text, e.answer)]:
            ids = tokenizer(text)["input_ids"]
            assert len(ids) == len(text) + 1
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
        for unknown in ("a", "3 5", "3\n5"):
            with pytest.raises(Exception, match="UNK"):
                tokenizer(unknown)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"size": 0}, "size must be at least 1"),
        ({"demonstrations": True, "sort_share": 1.5}, "sort_share must be between 0 and 1"),
        ({"demonstrations": True, "echo_chance": -0.1}, "echo_chance must be between 0 and 1"),
        ({"demonstrations": True, "echo_chance": float("nan")}, "echo_chance: nan is not a number"),
        ({"sort_share": 0.5}, "sort_share changes nothing without demonstrations: true"),
        ({"echo_chance": 0.5}, "echo_chance changes nothing without demonstrations: true"),
        ({"sizes": 5}, "did you mean 'size'"),
    ],
)
def test_refused_keys(node, message):
    with pytest.raises(RecipeError, match=f"task.*{message}"):
        build_part("task", {"name": "countdown", **node}, "task")


def test_the_written_out_recipe_builds_the_same_task():
    task = build_part("task", "countdown", "task")
    assert build_part("task", resolved(task), "task") == task == Countdown()
