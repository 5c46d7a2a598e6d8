"""`import align`: what it offers, with which signatures, at what cost, and that the examples in its docstrings say what happens."""

import dataclasses
import doctest
import inspect
import io
import pydoc
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import align
from align.coefficients.warmup import Warmup
from align.config.nodes import build_part, resolved
from align.divergences.tsallis import Tsallis
from align.errors import RecipeError
from align.references.context import Context
from align.regularizers.composed import Composed
from align.weightings.normalized import Normalized

FUNCTIONS = ("audit", "evaluate", "explain", "load", "penalty", "regularizer", "train")
SIGNATURES = {
    "audit": "(what: 'Regularizer | Recipe') -> 'Certificate | dict[str, Certificate]'",
    "evaluate": "(model: 'str | Path', recipe: 'Recipe | None' = None, *, problems: 'int | None' = None, samples: 'int | None' = None, "
    "temperature: 'float | None' = None)"
    " -> 'dict[str, float]'",
    "explain": "(recipe: 'Recipe', width: 'int' = 140) -> 'str'",
    "load": "(path: 'str | Path', overrides: 'Sequence[str]' = ()) -> 'Recipe'",
    "penalty": "(logp: 'Tensor', ref_logp: 'Tensor', mask: 'Tensor | None' = None, *, divergence: 'Any' = 'reverse_kl', "
    "estimator: 'Any' = 'sampled', credit: 'str' = 'local', old_logp: 'Tensor | None' = None, seq_ids: 'Tensor | None' = None, "
    "tokens: 'Tensor | None' = None, weights: 'Tensor | None' = None, regularizer: 'Composed | None' = None) -> 'Penalty'",
    "regularizer": "(divergence: 'Any' = 'reverse_kl', *, coefficient: 'Any', estimator: 'Any' = 'sampled', placement: 'str' = 'loss', "
    "credit: 'str' = 'local', weighting: 'Any' = 'uniform', reference: 'Any' = 'frozen', ratio_to: 'str' = 'old', "
    "ratio_cap: 'float | None' = None, beyond_cap: 'str' = 'truncate', clamp: 'float | None' = None, "
    "allow_biased: 'bool' = False) -> 'Composed'",
    "train": "(recipe: 'Recipe', run_dir: 'str | Path', address: 'str | None' = None, resume: 'bool' = False, *, "
    "began: 'float | None' = None) -> 'dict[str, Any]'",
}
"""A change here breaks other people's code: say so in the change log."""


def fresh(code: str) -> str:
    """What the code prints in a Python of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_names():
    assert (
        [name for name in dir(align) if not name.startswith("__")]
        == sorted(align.__all__)
        == ["Certificate", "Composed", "Penalty", "Recipe", "RecipeError", "UserError", *FUNCTIONS]
    )
    assert all(getattr(align, name).__name__ == name for name in align.__all__)
    with pytest.raises(AttributeError, match=r"module 'align' has no attribute 'penalities'; it has: .*penalty"):
        align.penalities  # noqa: B018


def test_the_signatures():
    assert {name: str(inspect.signature(getattr(align, name))) for name in FUNCTIONS} == SIGNATURES


def test_help_shows_each_function():
    page = pydoc.plain(pydoc.render_doc(align))
    assert all(f"\n    {name}(" in page for name in FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_docstring_says_what_goes_in_and_what_comes_out(name: str):
    doc, parameters = inspect.getdoc(getattr(align, name)), inspect.signature(getattr(align, name)).parameters
    sections = ["Args:", "Returns:", "Raises:", "Example:"]
    places = [doc.index(f"\n{section}\n") for section in sections]
    assert places == sorted(places)
    named = [
        word
        for line in doc[places[0] : places[1]].splitlines()
        if line.startswith("    ") and not line.startswith("     ")
        for word in line.split(":")[0].replace(",", " ").split()
    ]
    assert named == list(parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_its_example_is_what_happens(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function = getattr(align, name)
    (test,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert len(test.examples) >= 3
    report = io.StringIO()
    failed = doctest.DocTestRunner().run(test, out=report.write).failed
    assert not failed, report.getvalue()


def test_importing_it_imports_nothing_heavy():
    heavy = ("torch", "transformers", "ray", "omegaconf", "rich", "numpy", "yaml")
    assert fresh(f"import align, sys; print([m for m in sys.modules if m in {heavy} or m.startswith('align.')])") == "[]"


def test_a_module_does_not_hide_the_function_of_its_name():
    found = fresh("from align.train import train\nimport align, align.audit\nprint(align.train is train, type(align.audit).__name__)")
    assert found == "True function"
    for name in ("audit", "train"):
        function = getattr(align, name)
        setattr(align, name, import_module(f"align.{name}"))  # as Python does when it is first imported
        assert getattr(align, name) is function


def test_types_are_declared():
    assert (Path(align.__file__).parent / "py.typed").is_file()
    source = Path(align.__file__).read_text().partition("if TYPE_CHECKING:")[2].partition("\n_HOMES")[0]
    shown: dict = {}
    exec("\n".join(line.strip() for line in source.splitlines()), shown)
    assert {name: shown[name] for name in align.__all__} == {name: getattr(align, name) for name in align.__all__}


# Parts made in Python


def test_a_part_made_in_python_is_that_of_a_recipe():
    by_hand = Composed(divergence=Tsallis(q=0.5), coefficient=0.1)
    node = {"divergence": {"name": "tsallis", "q": 0.5}, "coefficient": 0.1}
    assert by_hand == build_part("regularizer", node, "") == align.regularizer({"name": "tsallis", "q": 0.5}, coefficient=0.1)
    assert build_part("regularizer", resolved(by_hand), "") == by_hand
    assert dataclasses.replace(by_hand, credit="summed").divergence is by_hand.divergence


@pytest.mark.parametrize(
    ("made", "key", "kind"),
    [
        (Warmup(to=0.3, steps=2), "to", "coefficient"),
        (Normalized(of="difficulty"), "of", "weighting"),
        (Context(prepend="In one word: "), "of", "reference"),
    ],
)
def test_every_part_that_holds_another_builds_it(made, key, kind):
    held = getattr(made, key)
    assert type(held).__module__.startswith(f"align.{kind}s.") and held.recipe_name


class Own:
    power: float = 0.5

    def f(self, log_u):
        return (self.power * log_u).expm1() ** 2


def test_a_class_of_ones_own_is_completed():
    assert align.regularizer(Own, coefficient=0.1).divergence.power == 0.5
    assert align.audit(align.regularizer(Own, coefficient=0.1)).verdict == "exact"


class Concave:
    def f(self, log_u):
        return -(log_u.expm1() ** 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Composed(divergence="tsalis", coefficient=0.1), "divergence: no divergence is called 'tsalis'; did you mean 'tsallis'"),
        (lambda: Composed(divergence="reverse_kl"), "Composed.coefficient: must name its coefficient"),
        (lambda: Composed(coefficient=Warmup), "Composed.coefficient.steps: must be given"),
        (lambda: Composed(divergence=Own(), coefficient=0.1), "derive Own from align.divergences.Divergence, or give the class itself"),
        (lambda: Composed(divergence=Warmup(to=0.3, steps=2), coefficient=0.1), "Composed.divergence: must be a divergence"),
        (lambda: Warmup(steps=2), "Warmup.to: must name its coefficient"),
        (lambda: align.regularizer("tsalis", coefficient=0.1), "regularizer.divergence: no divergence is called 'tsalis'"),
        (lambda: align.regularizer(coefficient="x"), "regularizer.coefficient: no coefficient is called 'x'"),
        (lambda: align.regularizer(coefficient=0.1, clamp="far"), "regularizer.clamp: 'far' is not of type"),
        (lambda: align.regularizer(coefficient=0.1, credit="all"), "credit must be one of local, summed, sequence, not 'all'"),
        (lambda: align.regularizer(Concave, coefficient=0.1), "f must be convex in u"),
        (lambda: align.load("countdown_grpo", "steps=2"), r"overrides are a list, each key=value: write \['steps=2'\]"),
    ],
)
def test_a_mistake_is_named(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_an_audit_of_a_recipe_has_one_certificate_a_regularizer():
    assert {name: c.passes for name, c in align.audit(align.load("countdown_grpo")).items()} == {"kl": True}


def test_explain_gives_the_text_that_the_command_prints():
    text = align.explain(align.load("countdown_grpo"), width=100)
    assert "regularizer kl" in text and "\x1b" not in text and max(map(len, text.splitlines())) <= 100


def test_a_run_does_not_start_in_a_folder_with_something_in_it(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    recipe = align.load("countdown_sft")
    with pytest.raises(align.UserError, match="is not empty"):
        align.train(recipe, str(tmp_path))
    with pytest.raises(align.UserError, match=r"there is no run .*gone to resume"):
        align.train(recipe, tmp_path / "gone", resume=True)
    with pytest.raises(align.UserError, match="is not the folder of a run"):
        align.evaluate(tmp_path)
    with pytest.raises(align.UserError, match="holds no model"):
        align.evaluate(tmp_path, recipe)
