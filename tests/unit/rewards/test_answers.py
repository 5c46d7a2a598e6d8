"""Final answers in texts, by hand, and on whatever a model may write."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.rewards._answers import EXTRACTIONS, boxed, equal, extraction, hash_marks, last_number, number


@pytest.mark.parametrize(
    ("text", "found"),
    [("6*7=42\n#### 42", "42"), ("#### 1\n#### 1,234 \nmore", "1,234"), ("####\n 42", "42"), ("#### ", ""), ("### 42", None), ("", None)],
)
def test_after_hash_marks(text, found):
    assert hash_marks(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} then \boxed{ \frac{1}{2} } done", r"\frac{1}{2}"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\{}", r"\{"),
        (r"$\boxed 12$ and", "12"),
        (r"\boxed{}", ""),
        (r"\boxed{1} and \boxed{2", None),  # cut off inside its answer
        (r"boxed{42}", None),
        ("", None),
    ],
)
def test_in_a_box(text, found):
    assert boxed(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It costs 3 or -1,234.50 dollars.", "-1,234.50"),
        ("7-5", "5"),
        ("(7)-5", "-5"),
        ("x = -5", "-5"),
        ("1, 2, 34", "34"),
        ("1,23", "23"),
        ("1,2345", "2345"),
        ("the answer is 42.", "42"),
        ("1.5e3", "1.5e3"),
        (".5", ".5"),
        ("10kg", "10"),
        ("q7", None),
        ("٣", None),
        ("none", None),
    ],
)
def test_last_number(text, found):
    assert last_number(text) == found


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("42", "42.0", True),
        ("$1,234.50", "1234.5", True),
        (r"1{,}234\%", "1234", True),
        ("−3", "-3", True),
        ("42.", "42", True),
        ("50%", "0.5", False),  # a per cent sign is dropped, it does not divide
        ("1e3", "1000", True),
        ("1e999999", "1e-999999", False),
        ("042", "42", True),
        ("42", "43", False),
        ("four  two", " four two", True),
        ("Four", "four", False),
        ("1,23", "123", False),
        ("", "0", False),
    ],
)
def test_equal_answers(one, other, same):
    assert equal(one, other) is equal(other, one) is same


def test_texts_are_compared_as_they_stand_without_numbers():
    assert not equal("42.0", "42", as_numbers=False)


def test_a_regular_expression_extracts_by_its_group():
    answer = extraction(r"Answer: (\S+)")
    assert answer("Answer: 1\nAnswer: 2 ") == "2" and answer("none") is None


@pytest.mark.parametrize("name", ["last", "(", "(a)(b)"])
def test_what_is_no_extraction_is_refused(name):
    with pytest.raises(ValueError, match="regular expression"):
        extraction(name)


@given(st.text(max_size=60), st.text(alphabet="0123456789.,+-eE$%\\{} boxed#\n", max_size=60))
@settings(deadline=None, max_examples=300)
def test_any_text_has_an_answer_or_none(one, other):
    for text in (one, other):
        for extract in EXTRACTIONS.values():
            found = extract(text)
            assert found is None or (found in text and equal(found, found))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_a_number_has_its_value_however_it_is_written(value):
    for written in (f"{value}", f"${value:,}", f"{value:,}%", f" {value} "):
        assert number(written) == value
    assert number(last_number(f"it is {value:,} now")) == value


@pytest.mark.parametrize("unit", ["9", "9,", ",999", "####", r"\boxed{", "{", "}", ".", "-", "e", "$", "\\", "a"])
def test_long_garbage_is_read_in_linear_time(unit):
    text = unit * (10**6 // len(unit))
    began = time.perf_counter()
    for extract in EXTRACTIONS.values():
        extract(text)
    number(text)
    assert time.perf_counter() - began < 5
