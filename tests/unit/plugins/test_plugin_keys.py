"""A field of a plugin that looks like a key and is none, for want of an annotation."""

import pytest
from helpers.plugins.several import write

from align.config.nodes import build_part
from align.errors import RecipeError


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("q = 0.5", "`q: float = 0.5`"),
        ("steps = 3", "`steps: int = 3`"),
        ("mode = 'a'", "`mode: str = 'a'`"),
        ("on = True", "`on: bool = True`"),
    ],
)
def test_a_field_without_an_annotation_says_how_it_becomes_a_key(tmp_path, field, says):
    write(tmp_path, mine=f"class Base:\n    '''Doc.'''\n\n    {field}\nclass Mine(Base):\n    def f(self, log_u): ...\n")
    with pytest.raises(RecipeError) as caught:
        build_part("divergence", {"name": f"{tmp_path}/mine.py:Mine"}, "regularizers.kl.divergence")
    name = field.partition(" ")[0]
    assert str(caught.value).startswith(f"regularizers.kl.divergence: {tmp_path}/mine.py:4: Base.{name} has no annotation")
    assert f"annotate it: {says}" in str(caught.value)


def test_a_default_that_a_subclass_would_lose_is_told(tmp_path):
    write(tmp_path, mine="from align.divergences.tsallis import Tsallis\nclass Mine(Tsallis):\n    q = 0.5\n")
    with pytest.raises(RecipeError, match=r"mine.py:3: Mine.q has no annotation.*`q: float = 0.5`"):
        build_part("divergence", f"{tmp_path}/mine.py:Mine", "d")


def test_what_is_plainly_no_key_needs_no_annotation(tmp_path):
    write(
        tmp_path,
        mine="""
        from dataclasses import dataclass
        from typing import ClassVar
        from align.divergences.reverse_kl import ReverseKl

        class Mine:
            full_support = False
            LIMIT = 3
            _hidden = 0.5
            words = ("a", "b")
            inner = ReverseKl()
            made = int
            kept: ClassVar[float] = 0.5
            q: float = 0.5

            def f(self, log_u):
                return log_u.exp()

            @property
            def half(self):
                return self.q / 2

            @classmethod
            def new(cls):
                return cls()
    """,
    )
    assert build_part("divergence", {"name": f"{tmp_path}/mine.py:Mine", "q": 2.0}, "").q == 2.0


def test_the_keys_of_a_base_class_are_keys(tmp_path):
    write(
        tmp_path,
        mine="""
        class Base:
            power: float = 2.0
            def f(self, log_u): return (self.power * log_u).expm1() - self.power * log_u.expm1()
        class Mine(Base):
            '''Doc.'''
        """,
    )
    assert build_part("divergence", {"name": f"{tmp_path}/mine.py:Mine", "power": 3}, "d").power == 3.0
