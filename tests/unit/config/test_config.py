"""Recipes and the registry: what merges, what is refused, and what the refusal says."""

import math
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from align.coefficients.constant import Constant
from align.config import find, parts, registry, yaml_files
from align.config.nodes import build, build_part, part, resolved, section
from align.divergences import Divergence
from align.divergences.reverse_kl import ReverseKl
from align.divergences.tsallis import Tsallis
from align.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 3
    rates: tuple[float, float] = (0.5, 0.25)
    label: str | None = None

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width must be at least 1, not {self.width}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int
    speed: float = field(default=1.0, metadata={"help": "metadata of another library"})
    inner: Inner = section(Inner)
    divergence: Divergence = part("divergence", "reverse_kl")
    weighting: object = part("weighting", optional=True)
    rules: dict = part("coefficient", many=True)


def refusal(call, *args) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        call(*args)
    return caught.value


def write(folder, name: str, text: str):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


# Building


def test_defaults_sections_and_parts():
    built = build(Outer, {"steps": 7, "inner": {"rates": [1, 2]}, "rules": {"a": 0.5}}, "")
    assert (built.steps, built.speed, built.inner.width, built.inner.rates) == (7, 1.0, 3, (1.0, 2.0))
    assert type(built.divergence) is ReverseKl
    assert built.weighting is None
    assert built.rules == {"a": Constant(value=0.5)}


def test_unknown_key_names_its_path_the_nearest_and_the_known():
    error = refusal(build, Outer, {"steps": 1, "inner": {"widht": 3}}, "")
    assert error.where == "inner.widht"
    assert str(error) == "inner.widht: unknown key; did you mean 'width'? Inner takes: width, rates, label"
    assert "did you mean" not in str(refusal(build, Outer, {"steps": 1, "zzz": 3}, ""))


@pytest.mark.parametrize(
    ("node", "where", "says"),
    [
        ({"steps": "many"}, "steps", "'many' is not of type int"),
        ({"steps": 1.5}, "steps", "1.5 is not of type int"),
        ({"steps": True}, "steps", "True is not of type int"),
        ({"steps": None}, "steps", "None is not of type int"),
        ({"steps": 1, "inner": {"rates": [1]}}, "inner.rates", "is not of type tuple"),
        ({"steps": 1, "inner": {"label": {"a": 1}}}, "inner.label", "is not of type str | None"),
        ({"steps": 1, "inner": 5}, "inner", "must be a mapping of keys, not 5"),
        ({"steps": 1, "inner": 0}, "inner", "must be a mapping of keys, not 0"),
        ({"steps": "${oc.env:HOME}"}, "steps", "not interpolations"),
        ({"steps": 1, "inner": {"label": "${oc.env:HOME}"}}, "inner.label", "not interpolations"),
        ({"steps": 1, "rules": [0.5]}, "rules", "must map a name of your choice to a coefficient"),
        ({"steps": 1, "divergence": 3}, "divergence", "names no divergence"),
        ({"steps": 1, "divergence": {"name": 3}}, "divergence", "has no `name`"),
        ({"steps": 1, "divergence": None}, "divergence", "must name its divergence"),
    ],
)
def test_a_wrong_value_is_refused_at_its_path(node, where, says):
    error = refusal(build, Outer, node, "")
    assert error.where == where
    assert says in str(error)


@pytest.mark.parametrize("node", [{}, {"steps": "???"}])
def test_a_required_key_must_be_given(node):
    assert str(refusal(build, Outer, node, "")) == "steps: must be given: Outer has no default for it"


def test_a_parts_own_check_is_told_at_its_path():
    assert str(refusal(build, Outer, {"steps": 1, "inner": {"width": 0}}, "")) == "inner: width must be at least 1, not 0"
    error = refusal(build, Outer, {"steps": 1, "rules": {"a": -1.0}}, "")
    assert error.where == "rules.a" and "value must be >= 0, not -1.0" in str(error)


def test_a_key_of_another_librarys_metadata_is_still_a_key():
    assert build(Outer, {"steps": 1, "speed": 2.5}, "").speed == 2.5


def test_a_node_without_a_name_configures_the_default_part():
    @dataclass(frozen=True, kw_only=True)
    class Holder:
        divergence: Divergence = part("divergence", "tsallis")

    assert build(Holder, {"divergence": {"q": 0.5}}, "").divergence == Tsallis(q=0.5)


def test_many_parts_null_removes_one_or_all():
    assert list(build(Outer, {"steps": 1, "rules": {"a": 0.5, "b": None}}, "").rules) == ["a"]
    assert build(Outer, {"steps": 1, "rules": None}, "").rules == {}


def test_resolved_writes_every_default_and_builds_the_same_again():
    built = build(Outer, {"steps": 1, "divergence": {"name": "tsallis", "q": 0.5}, "rules": {"a": {"name": "adaptive", "target": 2}}}, "")
    node = resolved(built)
    assert node == {
        "steps": 1,
        "speed": 1.0,
        "inner": {"width": 3, "rates": [0.5, 0.25], "label": None},
        "divergence": {"name": "tsallis", "q": 0.5},
        "weighting": None,
        "rules": {"a": {"name": "adaptive", "target": 2.0, "initial": 0.2, "horizon": 10000.0}},
    }
    assert build(Outer, node, "") == built


def test_location_is_the_line_of_the_class():
    file, line = parts.location(Tsallis).rsplit(":", 1)
    text = Path(file).read_text().splitlines()
    assert file.endswith("align/divergences/tsallis.py")
    # inspect counts the decorator as the first line of a class.
    assert text[int(line) - 1] == "@dataclass(frozen=True)" and text[int(line)].startswith("class Tsallis")


# Files, bases, overrides


def test_bases_merge_key_by_key_from_the_far_one_in(tmp_path):
    write(tmp_path, "shared/root.yaml", "steps: 1\nbatch: {prompts: 8, samples: 4}\ntask: a\n")
    write(tmp_path, "shared/mid.yaml", "base: root.yaml\nbatch: {samples: 2}\n")
    leaf = write(tmp_path, "leaf.yaml", "base: shared/mid.yaml\nsteps: 9\n")
    assert yaml_files.load(leaf) == {"steps": 9, "batch": {"prompts": 8, "samples": 2}, "task": "a"}


@pytest.mark.parametrize(
    ("base", "change", "merged"),
    [
        ("{name: tsallis, q: 2}", "{q: 3}", {"name": "tsallis", "q": 3}),
        ("{name: tsallis, q: 2}", "{name: tsallis}", {"name": "tsallis", "q": 2}),
        ("{name: tsallis, q: 2}", "tsallis", {"name": "tsallis", "q": 2}),
        ("{name: tsallis, q: 2}", "reverse_kl", {"name": "reverse_kl"}),
        ("{name: tsallis, q: 2}", "{name: alpha, a: 1}", {"name": "alpha", "a": 1}),
        ("tsallis", "{q: 3}", {"name": "tsallis", "q": 3}),
        ("tsallis", "{name: alpha}", {"name": "alpha"}),
        ("tsallis", "reverse_kl", "reverse_kl"),
        ("{name: tsallis, q: 2}", "null", None),
        ("0.1", "{name: adaptive, target: 1}", {"name": "adaptive", "target": 1}),
        ("{name: adaptive, target: 1}", "0.1", 0.1),
        ("[1, 2]", "[3]", [3]),
    ],
)
def test_merging_one_node(tmp_path, base, change, merged):
    write(tmp_path, "base.yaml", f"x: {base}\n")
    assert yaml_files.load(write(tmp_path, "new.yaml", f"base: base.yaml\nx: {change}\n")) == {"x": merged}


def test_overrides_win_and_keep_their_types(tmp_path):
    path = write(tmp_path, "r.yaml", "steps: 1\nrules: {kl: 0.1, other: 2}\n")
    overrides = ["steps=5", "rules.kl=null", "rules.new.value=1e-3", "inner.rates=[1,2]", "inner.label=a=b"]
    assert yaml_files.load(path, overrides) == {
        "steps": 5,
        "rules": {"kl": None, "other": 2, "new": {"value": 0.001}},
        "inner": {"rates": [1, 2], "label": "a=b"},
    }
    assert "is not of the form key=value" in str(refusal(yaml_files.load, path, ["--steps"]))
    assert "cannot be read" in str(refusal(yaml_files.load, path, ["a=[1"]))


def test_files_that_cannot_be_recipes(tmp_path):
    loop = write(tmp_path, "a.yaml", "base: b.yaml\n")
    write(tmp_path, "b.yaml", "base: a.yaml\n")
    error = refusal(yaml_files.load, loop)
    assert error.where == "base" and "a.yaml -> " in str(error) and "b.yaml" in str(error)
    assert "there is no recipe" in str(refusal(yaml_files.load, tmp_path / "absent.yaml"))
    assert "not valid YAML" in str(refusal(yaml_files.load, write(tmp_path, "c.yaml", "a: [1\n")))
    assert "a recipe is a mapping" in str(refusal(yaml_files.load, write(tmp_path, "d.yaml", "- a\n")))


def test_a_base_is_beside_its_recipe_or_comes_with_align(tmp_path, monkeypatch):
    shipped = tmp_path / "shipped"
    monkeypatch.setattr(find, "shipped_folder", lambda: shipped)
    monkeypatch.chdir(write(tmp_path, "elsewhere/beside.yaml", "x: of the working directory\n").parent)
    for name in ("one", "beside"):
        write(shipped, f"{name}.yaml", f"x: {name} that comes with align\nfile: ./part.py:Part\n")
    write(tmp_path, "mine/beside.yaml", "x: beside\n")
    for base in ("one", "one.yaml", "recipes/one.yaml"):
        found = yaml_files.load(write(tmp_path, "mine/r.yaml", f"base: {base}\n"))
        assert found == {"x": "one that comes with align", "file": f"{shipped}/part.py:Part"}
    for base in ("beside", "beside.yaml", "./beside.yaml", "../mine/beside.yaml", str(tmp_path / "mine" / "beside.yaml")):
        assert yaml_files.load(write(tmp_path, "mine/r.yaml", f"base: {base}\n")) == {"x": "beside"}


@pytest.mark.parametrize(
    ("base", "says"), [("on.yaml", "there is no recipe on.yaml; did you mean 'one'?"), ("3", "must name a recipe, not 3")]
)
def test_a_base_that_is_not_there_names_the_key_and_who_asks(tmp_path, monkeypatch, base, says):
    write(tmp_path, "shipped/one.yaml", "x: 1\n")
    monkeypatch.setattr(find, "shipped_folder", lambda: tmp_path / "shipped")
    write(tmp_path, "mid.yaml", f"base: {base}\n")
    error = refusal(yaml_files.load, write(tmp_path, "r.yaml", "base: mid.yaml\n"))
    assert error.where == "base" and str(error).startswith(f"base: {tmp_path}/mid.yaml: {says}")


# The registry


def test_an_unknown_part_names_the_nearest_and_the_known():
    error = refusal(build_part, "divergence", "tsalis", "x.divergence")
    assert error.where == "x.divergence"
    assert "no divergence is called 'tsalis'; did you mean 'tsallis'? There are: " in str(error)
    for name in ("reverse_kl", "forward_kl", "jensen_shannon", "tsallis", "file.py:Class"):
        assert name in str(error)


def test_every_shipped_part_resolves_to_a_dataclass_of_its_contract():
    for kind in registry.ROOMS:
        for name in registry.shipped(kind):
            found = registry.resolve(kind, name, "")
            assert issubclass(found, registry.contract(kind)), (kind, name)
            assert "__dataclass_fields__" in found.__dict__, (kind, name)


PLUGIN = """
    class Squared:
        '''Pearson chi-squared.'''

        scale: float = 1.0

        def f(self, log_u):
            return self.scale * (log_u.exp() - 1) ** 2
"""


def test_a_plugin_file_with_only_f_is_completed_by_the_contract(tmp_path):
    path = write(tmp_path, "mine.py", PLUGIN)
    built = build_part("divergence", {"name": f"{path}:Squared", "scale": 2.0}, "")
    assert isinstance(built, Divergence) and built.recipe_name == f"{path}:Squared"
    # f = 2(u - 1)^2: f' = 4(u - 1), so c = 4(u - 1); f(1) = f'(1) = 0, so khat = f/u.
    log_u = torch.tensor([-1.0, 0.0, 0.5])
    u = [math.exp(-1), 1.0, math.exp(0.5)]
    torch.testing.assert_close(built.grad_weight(log_u), torch.tensor([4 * (x - 1) for x in u]))
    torch.testing.assert_close(built.khat(log_u), torch.tensor([2 * (x - 1) ** 2 / x for x in u]))
    assert parts.location(type(built)) == f"{path}:2"
    error = refusal(build_part, "divergence", {"name": f"{path}:Squared", "scal": 2.0}, "d")
    assert str(error) == "d.scal: unknown key; did you mean 'scale'? Squared takes: scale"


def test_a_plugin_may_be_a_dataclass_or_derive_from_a_shipped_part(tmp_path):
    path = write(
        tmp_path,
        "kinds.py",
        """
        from dataclasses import dataclass, field
        from align.divergences.tsallis import Tsallis

        @dataclass(frozen=True)
        class Free:
            powers: list[float] = field(default_factory=lambda: [2.0])

            def f(self, log_u):
                return sum((p * log_u).exp() - 1 for p in self.powers)

        class Half(Tsallis):
            q: float = 0.5
            floor: float = 0.0

        class Same(Tsallis):
            pass
    """,
    )
    assert build_part("divergence", f"{path}:Free", "").powers == (2.0,)
    assert build_part("divergence", f"{path}:Half", "").q == 0.5
    assert build_part("divergence", {"name": f"{path}:Half", "floor": 1.0}, "").floor == 1.0
    assert build_part("divergence", {"name": f"{path}:Same", "q": 0.25}, "").q == 0.25


def test_a_plugin_without_what_the_contract_demands_is_refused(tmp_path):
    path = write(tmp_path, "empty.py", "class Nothing:\n    pass\n")
    error = refusal(build_part, "divergence", f"{path}:Nothing", "r.divergence")
    assert error.where == "r.divergence" and f"{path}:1: Nothing is no divergence yet: it lacks f(self, log_u)" in str(error)


def test_a_class_that_is_abstract_by_a_method_of_its_own_lacks_that_method(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import abc\nclass Mine(abc.ABC):\n    @abc.abstractmethod\n    def shape(self, log_u): ...\n"
        "    def f(self, log_u):\n        return log_u\n"
    )
    with pytest.raises(RecipeError, match=r"Mine is no divergence yet: it lacks shape\(self, log_u\)"):
        registry.resolve("divergence", f"{path}:Mine", "r.divergence")


def test_a_plugin_that_fails_to_import_shows_its_traceback(tmp_path):
    path = write(tmp_path, "broken.py", "one = 1\nraise KeyError('the author sees this')\n")
    error = refusal(build_part, "divergence", f"{path}:Any", "r.divergence")
    assert error.where == "r.divergence"
    assert f'File "{path}", line 2' in str(error) and "KeyError: 'the author sees this'" in str(error)
    assert str(error).count("File ") == 1  # no line of align's
    missing = refusal(build_part, "divergence", "no_such_package.module:Any", "r")
    assert "No module named 'no_such_package'" in str(missing)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("one = 1\ndef f(self log_u): ...\n", 2, "SyntaxError: "),
        ("\n\nimport no_such_package\n", 3, "ModuleNotFoundError: No module named 'no_such_package'"),
        ("from pathlib import Pathh\n", 1, "ImportError: cannot import name 'Pathh' from 'pathlib'"),
    ],
)
def test_a_plugin_that_cannot_be_read_is_told_in_one_line(tmp_path, text, line, says):
    path = write(tmp_path, "broken.py", text)
    first, second = str(refusal(build_part, "divergence", f"{path}:Any", "d")).split("\n")
    assert first == f"d: the plugin {path} failed to import" and second.startswith(f"{path}:{line}: {says}")


def test_a_plugin_file_names_its_classes_or_its_absence(tmp_path):
    path = write(tmp_path, "two.py", "from pathlib import Path\nclass B: pass\nclass A: pass\n")
    assert str(refusal(build_part, "divergence", f"{path}:C", "x")) == f"x: {path} has no class C; it has: A, B"
    assert "there is no plugin file" in str(refusal(build_part, "divergence", f"{tmp_path}/absent.py:C", "x"))


def test_a_relative_plugin_path_starts_at_the_recipe_or_at_the_working_directory(tmp_path, monkeypatch):
    in_recipe = write(tmp_path, "recipes/parts/mine.py", PLUGIN)
    on_the_line = write(tmp_path, "elsewhere/own.py", PLUGIN)
    recipe = write(tmp_path, "recipes/r.yaml", "divergence: ./parts/mine.py:Squared\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert yaml_files.load(recipe) == {"divergence": f"{in_recipe}:Squared"}
    assert yaml_files.load(recipe, ["divergence=own.py:Squared"]) == {"divergence": f"{on_the_line}:Squared"}


def test_entry_points_are_parts_and_a_broken_one_shows_its_traceback(tmp_path, monkeypatch):
    write(tmp_path, "other_package.py", PLUGIN)
    info = tmp_path / "other_package-1.0.dist-info"
    write(tmp_path, f"{info.name}/METADATA", "Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
    write(tmp_path, f"{info.name}/entry_points.txt", "[align.divergences]\nsquared = other_package:Squared\nbad = other_package:Absent\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert set(registry.installed("divergence")) == {"squared", "bad"}
    assert build_part("divergence", {"name": "squared", "scale": 3.0}, "").scale == 3.0
    error = refusal(build_part, "divergence", "bad", "x")
    assert "the plugin 'bad' failed to import" in str(error) and "AttributeError" in str(error)
    assert "squared" in str(refusal(build_part, "divergence", "squard", "x"))


RENAMED = """
from align.divergences import Divergence
from align.estimators import Estimator
from align.regularizers.composed import Composed

class Mine(Divergence):
    def f(self, log_u): return log_u.exp() * log_u
    def {method}(self, log_u): return log_u

class Held(Composed):
    def {method}(self, batch, name): return None

class Own(Estimator):
    def {method}(self, divergence, log_u): return log_u
"""


@pytest.mark.parametrize(
    ("kind", "method", "now"),
    [
        ("divergence:Mine", "coefficient", "grad_weight(self, log_u)"),
        ("divergence:Mine", "generator", "bregman(self, log_u)"),
        ("divergence:Mine", "value", "khat(self, log_u)"),
        ("regularizer:Held", "charge", "reward_penalty(self, batch, name)"),
        ("divergence:Mine", "refusal", "refuse(self, setting)"),
        ("estimator:Own", "coefficient", "grad_weight(self, divergence, log_u)"),
        ("estimator:Own", "refuses_surrogate", "refuse(self, setting)"),
    ],
)
def test_a_method_that_has_another_name_is_refused_with_it(kind, method, now, tmp_path):
    (tmp_path / "mine.py").write_text(RENAMED.format(method=method))
    kind, name = kind.split(":")
    error = refusal(registry.resolve, kind, f"{tmp_path}/mine.py:{name}", kind)
    assert f"`{method}` is called `{now}`" in str(error)
