"""The command line: exit codes, messages, and what it hands to the loop."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from align.cli import app
from align.config import find, registry
from align.errors import RecipeError, RunStopped
from align.run.evaluation import Measured

ENGINE = """
class Silent:
    '''Answers nothing.'''

    def start(self, *args): ...
"""

RECIPE = """
steps: 10
task: countdown
algorithm: {name: grpo, reduction: constant}
reward: countdown_exact
engine: ./silent.py:Silent
model: {config: {model_type: qwen2}}
batch: {prompts: 16, samples: 4}
sampling: {max_tokens: 24}
regularizers: {kl: {coefficient: 0.03}}
"""


def align(*arguments: str):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False, env={"COLUMNS": "300"})


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A small recipe, and a working directory of its own."""
    (tmp_path / "silent.py").write_text(ENGINE)
    (tmp_path / "small.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "small.yaml"


@pytest.fixture
def loop(monkeypatch):
    """Stands in for the training loop: records its calls and does what `loop.then` says."""
    calls = SimpleNamespace(made=[], then=lambda: {})

    def train(recipe, run_dir, address, resume, began):
        calls.made.append((recipe, run_dir, address, resume))
        return calls.then()

    monkeypatch.setitem(sys.modules, "align.train", SimpleNamespace(train=train))
    return calls


# Help


def test_help_loads_no_heavy_library():
    program = (
        "import sys\n"
        "from align.cli import app\n"
        "for command in ([], ['train'], ['eval'], ['explain'], ['list']):\n"
        "    try: app([*command, '--help'])\n"
        "    except SystemExit as end: assert not end.code\n"
        "from align.inspect import completion\n"
        "assert completion.recipes(None, 'countdown') and completion.kinds(None, 'div')\n"
        "heavy = {'torch', 'ray', 'transformers', 'vllm', 'numpy', 'omegaconf', 'matplotlib', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Example:\n") == 4


def test_the_console_script_is_installed():
    done = subprocess.run([Path(sys.executable).with_name("align"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "Run a recipe into a folder." in done.stdout


@pytest.mark.parametrize("command", get_command(app).list_commands(None))
def test_every_command_shows_an_example_of_itself(command):
    shown = align(command, "--help").stdout
    assert f"\n  Example:\n    align {command}" in shown


# Mistakes


def test_an_unknown_key_ends_with_code_2_and_the_nearest_key(recipe, loop):
    result = align("train", "small", "batch.prompt=8")
    assert result.exit_code == 2 and loop.made == []
    assert result.stderr.startswith("batch.prompt: unknown key; did you mean 'prompts'? Batch takes: prompts, samples, ")
    assert result.stdout == ""


def test_an_unknown_part_ends_with_code_2_and_the_nearest_name(recipe):
    result = align("explain", "small", "regularizers.kl.divergence=reverse_lk")
    assert result.exit_code == 2
    assert result.stderr.startswith("regularizers.kl.divergence: no divergence is called 'reverse_lk'; did you mean 'reverse_kl'?")


def test_a_mistake_shows_no_traceback_and_no_escapes(recipe):
    done = subprocess.run([Path(sys.executable).with_name("align"), "explain", "countdown_grp"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("there is no recipe countdown_grp; did you mean 'countdown_grpo'? ") and done.stderr.count("\n") == 1


def test_a_defect_keeps_its_traceback(recipe, loop):
    def defect():
        raise ZeroDivisionError("a defect of ours")

    loop.then = defect
    with pytest.raises(ZeroDivisionError, match="a defect of ours"):
        align("train", "small")


# train


def test_train_hands_over_the_recipe_and_its_default_folder(recipe, loop):
    assert align("train", "small.yaml", "steps=3", "regularizers.kl.coefficient=0.5", "--address", "auto").exit_code == 0
    ((built, run_dir, address, resume),) = loop.made
    assert (built.steps, built.regularizers["kl"].coefficient.value) == (3, 0.5)
    assert (run_dir, address, resume) == (Path("runs/small"), "auto", False)


def test_a_folder_with_something_in_it_is_not_overwritten(recipe, loop):
    Path("mine").mkdir()
    assert align("train", "small", "--out", "mine").exit_code == 0  # empty: free to use
    Path("mine/metrics.jsonl").touch()
    result = align("train", "small", "--out", "mine")
    assert result.exit_code == 2
    assert result.stderr == (
        "mine is not empty: choose another folder with --out, or continue that run with --resume (in Python run_dir and resume=True)\n"
    )
    assert align("train", "small", "--out", "mine", "--resume").exit_code == 0
    assert [call[3] for call in loop.made] == [False, True]
    assert align("train", "small", "--out", "silent.py").exit_code == 2  # a file is no folder


def test_resuming_what_does_not_exist(recipe, loop):
    result = align("train", "small", "--resume")
    assert result.exit_code == 2 and "there is no run runs/small to resume" in result.stderr and loop.made == []


def checkpoint(run_dir):
    """What a run leaves that has done three steps."""
    folder = Path(run_dir, "checkpoints", "step_000003")
    folder.mkdir(parents=True)
    (folder / "driver.json").touch()


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(recipe, loop):
    def interrupt():
        checkpoint("my run")
        raise KeyboardInterrupt

    loop.then = interrupt
    result = align("train", "small", "task.seed=3", "--out", "my run", "--address", "auto")
    assert result.exit_code == 130
    assert result.stderr.startswith("Stopped by hand. Kept: my run/checkpoints/step_000003 and the metrics. To go on: align train")
    assert result.stderr.endswith("align train small task.seed=3 --out 'my run' --address auto --resume\n")


def test_a_run_that_kept_nothing_is_not_said_to_go_on(recipe, loop):
    def interrupt():
        raise KeyboardInterrupt

    loop.then = interrupt
    assert align("train", "small", "--out", "gone").stderr == "Stopped by hand: nothing was kept.\n"


def test_a_stopped_run_says_why_and_how_to_go_on(recipe, loop):
    def stop():
        checkpoint("runs/small")
        raise RunStopped("step 7: the loss is nan")

    loop.then = stop
    result = align("train", "small")
    assert result.exit_code == 2
    assert result.stderr == (
        "step 7: the loss is nan\n"
        "Kept: runs/small/checkpoints/step_000003 and the metrics. To go on: align train small --out runs/small --resume\n"
    )


# eval


@pytest.fixture
def measured(monkeypatch):
    calls = []

    def measure(*arguments, **keys):
        calls.append((*arguments, *keys.values()))
        return Measured({"countdown/pass@1": 0.25}, {})

    monkeypatch.setattr("align.inspect.measured.measure", measure)
    monkeypatch.setattr("align.inspect.measured.recipe_of", "recipe of {}".format)
    monkeypatch.setattr("align.inspect.measured.load", "recipe {}".format)
    return calls


def test_eval_prints_a_table_or_json(measured):
    assert json.loads(align("eval", "run", "--json").stdout) == {"countdown/pass@1": 0.25}
    shown = align("eval", "other", "--recipe", "small", "--problems", "5", "--samples", "2").stdout
    assert "countdown/pass@1" in shown and "0.250" in shown
    assert measured == [("run", "recipe of run", None, None, None), ("other", "recipe small", 5, 2, None)]


def test_eval_of_what_is_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = align("eval", ".")
    assert result.exit_code == 2 and "has no recipe.yaml" in result.stderr


# explain


def test_explain_prints_coefficient_and_effective_beta(recipe):
    shown = align("explain", "small", "regularizers.kl.coefficient=0.06").stdout
    assert "− 0.06 · kl_t ]" in shown
    assert "β = 0.06 at step 0" in shown
    # reduction constant: 0.06 / 24 a nat of an answer.
    assert "0.0025 × the mean nats of an answer" in shown


# list


def test_list_as_json_holds_every_part():
    parts = json.loads(align("list", "--json").stdout)
    found = {(p["kind"], p["name"]): p for p in parts}
    assert {kind for kind, _ in found} == registry.ROOMS.keys()
    tsallis = found["divergence", "tsallis"]
    assert tsallis["origin"] == "align" and tsallis["summary"].startswith("Tsallis KL")
    assert tsallis["keys"] == [{"name": "q", "type": "float", "default": 2.0, "required": False, "doc": ""}]
    assert all("error" not in p for p in parts)


def test_list_of_one_kind_explains_its_keys():
    shown = align("list", "coefficient").stdout
    assert "target: float  Nats per response" in shown and "initial=0.2" in shown and "reverse_kl" not in shown


def test_list_of_the_recipes_own_keys_has_every_section_and_no_part():
    sections = {part["name"]: part for part in json.loads(align("list", "recipe", "--json").stdout)}
    assert {"", "model", "model.lora", "batch", "optimizer", "workers", "checkpoint"} <= set(sections)
    assert [k["name"] for k in sections[""]["keys"]][:2] == ["steps", "seed"] and "model" not in [k["name"] for k in sections[""]["keys"]]
    assert {k["name"]: k["default"] for k in sections["model.lora"]["keys"]}["rank"] == 0
    assert "Rollouts per prompt" in align("list", "recipe").stdout


def test_list_of_the_shipped_recipes_has_the_title_of_each_file():
    listed = {r["name"]: r for r in json.loads(align("list", "recipes", "--json").stdout)}
    assert list(listed) == list(find.shipped_recipes()) and all(r["summary"] for r in listed.values())
    one = listed["methods/ipo"]
    assert one["summary"] == "IPO: a squared loss whose optimum has a finite margin" and Path(one["location"]).is_file()
    assert "Paper" not in align("list", "recipes").stdout


def test_list_of_an_unknown_kind():
    result = align("list", "divergance")
    assert result.exit_code == 2 and "did you mean 'divergence'?" in result.stderr


def test_list_names_the_package_of_a_plugin_and_does_not_fall_over_a_broken_one(tmp_path, monkeypatch):
    (tmp_path / "caller.py").write_text("class Guest:\n    '''A guest [of ours].'''\n    def f(self, log_u): ...\n")
    info = tmp_path / "guest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[align.divergences]\nguest = caller:Guest\nlost = caller:CallFailed\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    shown = align("list", "divergence").stdout
    assert "A guest [of ours]. (entry point caller:Guest)" in shown
    assert "AttributeError: module 'caller' has no attribute 'CallFailed' (entry point caller:CallFailed)" in shown
    lost = next(p for p in json.loads(align("list", "divergence", "--json").stdout) if p["name"] == "lost")
    assert lost["error"].endswith("failed to import\nAttributeError: module 'caller' has no attribute 'CallFailed'")


# Which file a name means


def test_a_recipe_is_looked_for_here_and_then_among_the_shipped(tmp_path, monkeypatch):
    ours, here = tmp_path / "shipped", tmp_path / "here"
    for folder, names in ((ours, ("a", "b", "papers/c")), (here, ("b",))):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.yaml").touch()
    monkeypatch.setattr(find, "shipped_folder", lambda: ours)
    monkeypatch.chdir(here)
    assert find.find_recipe("a") == find.find_recipe("a.yaml") == find.find_recipe("recipes/a.yaml") == ours / "a.yaml"
    assert find.find_recipe("papers/c") == ours / "papers" / "c.yaml"
    assert find.find_recipe("b") == Path("b.yaml")
    assert find.find_recipe(str(ours / "b.yaml")) == ours / "b.yaml"
    (here / "a").mkdir()  # a folder is no recipe
    assert find.find_recipe("a") == ours / "a.yaml"
    with pytest.raises(RecipeError, match=r"there is no recipe papers/d; did you mean 'papers/c'\? `align list recipes` lists"):
        find.find_recipe("papers/d")
    with pytest.raises(RecipeError, match=r"there is no recipe c; did you mean 'papers/c'\?"):
        find.find_recipe("c")


def test_the_shipped_recipes_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find.find_recipe("countdown_grpo").read_text().startswith("#")
