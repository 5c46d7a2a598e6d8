"""docs/regularizers.md says what the code says now, and its tables are tables."""

import re

import pytest
from helpers.paths import ROOT

from align.config import registry
from align.config.find import shipped_recipes
from align.divergences import StateFunctional
from align.tools import methods_page, objective_page
from align.tools.reference_page import page, prose

COMMITTED = (ROOT / "docs" / "regularizers.md").read_text()


def cells(line: str) -> list[str]:
    """Of one row; an escaped bar is text."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables() -> list[list[list[str]]]:
    return [[cells(line) for line in block.splitlines()] for block in COMMITTED.split("\n\n") if block.startswith("|")]


def test_the_page_is_what_the_command_makes_now():
    assert page() == COMMITTED, "run: python -m align.tools.reference_page > docs/regularizers.md"


def test_the_page_of_the_objective_is_what_the_command_makes_now():
    committed = (ROOT / "docs" / "objective.md").read_text()
    assert objective_page.page() == committed, "run: python -m align.tools.objective_page > docs/objective.md"


def test_the_page_of_methods_is_what_the_command_makes_now():
    committed = (ROOT / "docs" / "methods.md").read_text()
    assert methods_page.page() == committed, "run: python -m align.tools.methods_page > docs/methods.md"
    named = {row[1].strip("`") for block in committed.split("\n\n") if block.startswith("|") for row in map(cells, block.splitlines()[2:])}
    assert named == {name for name in shipped_recipes() if name.startswith("methods/")}


def test_every_row_has_a_cell_for_every_column():
    assert len(tables()) == 11
    for table in tables():
        assert {len(row) for row in table} == {len(table[0])}
        assert set(table[1]) == {"---"}


@pytest.mark.parametrize("kind", ["divergence", "estimator", "coefficient", "weighting", "reference", "shaping", "regularizer"])
def test_every_part_has_a_row(kind: str):
    listed = {row[0].strip("`") for table in tables() if table[0][0] == kind for row in table[2:]}
    assert listed == set(registry.shipped(kind))


def test_what_the_literature_says_of_the_published_forms():
    """Tang and Munos 2506.09477, Liu et al. 2510.01555: k1 in the loss is noise, k3 the forward KL, k2 right on-policy."""
    gradients = {row[0]: row[1:] for table in tables() if table[0][0] == "form" for row in table[2:]}
    assert "zero" in gradients["k1 in the loss"][0] and gradients["k1 in the loss"][1] == "100%"
    assert "that of forward_kl" in gradients["k3 in the loss"][0]
    assert gradients["k2 in the loss"][1] == "0" != gradients["k2 in the loss"][2]
    products = next(table for table in tables() if "loss, local" in table[0])
    legal = {row[0].strip("`"): dict(zip(products[0], row, strict=True)) for row in products[2:]}
    assert [legal[name]["loss, local"] for name in ("sampled", "k1", "k2", "k3")] == ["yes", "biased", "on-policy", "biased"]
    assert [legal[name]["reward, local"] for name in ("sampled", "k1", "exact")] == ["yes", "yes", "—"]


def test_what_may_be_a_link():
    """Where f' is constant there is no gradient, where it falls there is no minimum; f'(0) finite is warned of (2309.16240)."""
    divergences = next(table for table in tables() if table[0][0] == "divergence")
    link = {row[0].strip("`"): row[divergences[0].index("link")] for row in divergences[2:]}
    of_states = {name for name in link if issubclass(registry.resolve("divergence", name, name), StateFunctional)}
    assert of_states and {name for name, may in link.items() if may == "no"} == {"total_variation", "k2_functional", "renyi"} | of_states
    assert link["pearson"] == "warned" and link["reverse_kl"] == link["jensen_shannon"] == "yes"
    products = next(table for table in tables() if "link, local" in table[0])
    column = {row[0].strip("`"): row[products[0].index("link, local")] for row in products[2:]}
    assert {name for name, may in column.items() if may == "yes"} == {"sampled", "exact"} and "link, summed" not in products[0]


def test_a_docstring_does_not_break_a_table():
    assert prose("|a| * b < `c * d|e`, KL(pi||ref)") == r"\|a\| \* b &lt; `c * d\|e`, KL(π‖ref)"
