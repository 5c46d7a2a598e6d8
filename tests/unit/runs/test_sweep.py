"""A sweep: what it runs, what it refuses before it runs anything, what it keeps, and what it tells."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers import blank_plots
from omegaconf import OmegaConf
from typer.testing import CliRunner

from align.cli import app
from align.config import nodes
from align.config.recipes import load
from align.errors import UserError
from align.sweep import plot, runner
from align.sweep.plan import Axis, Plan, split
from align.sweep.progress import latest
from align.sweep.results import statistics_of, training

RECIPE = """
steps: 3
task: {name: countdown, size: 64}
algorithm: {name: grpo, reduction: constant}
reward: countdown_wordy
model: {config: {model_type: qwen2, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2,
                 intermediate_size: 16, max_position_embeddings: 64, tie_word_embeddings: true}}
batch: {prompts: 4, samples: 4}
sampling: {max_tokens: 8}
evaluation: {problems: 4, samples: 2}
workers: {backend: local}
regularizers: {kl: {coefficient: 0.03}}
"""

# Stands in for `python -m align.cli train`: breaks with 13 steps, waits for Ctrl-C with 99 and for two others with 98, else
# scores steps / 10 + seed / 100.
STAND_IN = """
import json, pathlib, sys, time
words = sys.argv[4:]
out = pathlib.Path(words[words.index("--out") + 1])
keys = dict(w.split("=", 1) for w in words if "=" in w)
steps, seed = int(keys.get("steps", 3)), int(keys["seed"])
seen = len(list(out.parent.parent.glob("*/seed_*/metrics.jsonl")))
with open("started", "a") as log:
    print(json.dumps({"cell": out.parent.name, "seed": seed, "resume": "--resume" in words, "seen": seen, "kept": (out / "x").exists()}),
          file=log)
if steps == 13:
    print("  File x", "steps: it broke", "", sep="\\n", file=sys.stderr)
    sys.exit(2)
out.mkdir(parents=True, exist_ok=True)
while steps == 98 and len(pathlib.Path("started").read_text().splitlines()) < 3:
    time.sleep(0.05)
if steps == 99:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        (out / "stopped").touch()
        sys.exit(130)
time.sleep(float(keys.get("optimizer.lr", 0)))
(out / "metrics.jsonl").write_text('{"step": 0, "reward/mean": %s}\\n' % steps)
time.sleep(float(keys.get("optimizer.lr", 0)))
summary = {"before": {"pass@1": seed / 8}, "after": {"pass@1": steps / 10 + seed / 100}, "train_seconds": 1.0, "tokens/s": None}
(out / "summary.json").write_text(json.dumps(summary))
"""

DRAWN = plot.draw


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """Drawing takes a second."""
    monkeypatch.setattr("align.sweep.plot.draw", lambda found, picture: blank_plots.blank(picture, picture))


def align(*arguments: str):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False, env={"COLUMNS": "300"})


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A small recipe, and a working directory of its own."""
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tiny.yaml"


@pytest.fixture
def stand_in(recipe, monkeypatch):
    """Runs take no time; returns what was started."""
    program = recipe.with_name("python")
    program.write_text(f"#!{sys.executable}\n{STAND_IN}")
    program.chmod(0o755)
    monkeypatch.setattr(runner.sys, "executable", str(program))
    monkeypatch.setattr(runner, "POLL", 0.02)
    return lambda: [json.loads(line) for line in Path("started").read_text().splitlines()] if Path("started").exists() else []


def plan(*over: str, overrides: tuple[str, ...] = (), seeds: int = 1) -> Plan:
    return Plan({"tiny": Path("tiny.yaml")}, overrides, tuple(Axis.parse(text) for text in over), seeds, Path("out"))


# The plan


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.1,0.3", ["0.1", "0.3"]),
        ("[1, 2],[3]", ["[1, 2]", "[3]"]),
        ("kl, {name: tsallis, q: [0.5, 1]} ,null", ["kl", "{name: tsallis, q: [0.5, 1]}", "null"]),
        ("'a,b',\"c]\"", ["'a,b'", '"c]"']),
        ("it's,so", ["it's", "so"]),
    ],
)
def test_values_are_split_at_the_commas_that_no_bracket_holds(text, values):
    assert split(text) == values


@pytest.mark.parametrize("text", ["[1,2", "1]", "{a: [1}]", "'a", "1,,2", "1,"])
def test_what_cannot_be_split_is_told(text):
    with pytest.raises(UserError):
        split(text)


def test_cells_are_the_product_and_have_names_one_can_read():
    cells = plan("a.kl.divergence=tsallis,{name: tsallis, q: 0.5}", "b.lr=1e-3").cells
    assert [c.name for c in cells] == ["divergence=tsallis,lr=1e-3", "divergence=tsallis_q_0.5,lr=1e-3"]
    assert cells[1].changes == ("a.kl.divergence={name: tsallis, q: 0.5}", "b.lr=1e-3")
    assert [c.name for c in plan().cells] == ["tiny"]
    assert plan("a.kl.rate=1", "b.kl.rate=1", "rate=1").labels == ("a.kl.rate", "b.kl.rate", "rate")


def test_several_recipes_are_a_column_of_their_own():
    recipes = {"tiny": Path("/a/tiny.yaml"), "methods/other": Path("/b/other.yaml")}
    found = Plan(recipes, (), (Axis.parse("x.recipe=1,2"),), 1, Path("out"))
    assert found.labels == ("recipe", "x.recipe")
    assert [c.name for c in found.cells] == ["tiny,x.recipe=1", "tiny,x.recipe=2", "other,x.recipe=1", "other,x.recipe=2"]
    assert found.cells[2].recipe == Path("/b/other.yaml") and found.cells[2].changes == ("x.recipe=1",)
    assert str(found.cells[2]) == "methods/other x.recipe=1"
    alone = Plan(recipes, (), (), 1, Path("out")).cells
    assert [(c.name, c.values, str(c)) for c in alone] == [("tiny", ("tiny",), "tiny"), ("other", ("methods/other",), "methods/other")]


def test_recipes_of_one_file_name_have_folders_of_their_own():
    recipes = {"a/tiny": Path("/a/tiny.yaml"), "b/tiny": Path("/b/tiny.yaml")}
    assert len({c.name for c in Plan(recipes, (), (), 1, Path("out")).cells}) == 2


def test_no_two_cells_share_a_folder_and_no_name_is_too_long():
    names = [c.name for c in plan("x=a/b,a b,a_b", f"y={'z' * 300}").cells]
    assert len(set(names)) == 3 and all(len(n) < 120 and "/" not in n for n in names)


def test_every_cell_has_its_first_seed_before_any_has_its_second():
    assert [str(r) for r in plan("x=1,2", seeds=2).runs] == ["x=1 seed 0", "x=2 seed 0", "x=1 seed 1", "x=2 seed 1"]


# Refused before anything runs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--over", "regularizers.kl.divergence=reverse_kl,tsalis"],
            "the cell regularizers.kl.divergence=tsalis cannot run, so none was started",
        ),
        (["--over", "regularizers.kl.coefficient=0.1,-1", "--over", "steps=2,3"], "regularizers.kl.coefficient=-1 steps=2 cannot run"),
        (["--over", "steps=2,two"], "steps=two cannot run, so none was started: steps: 'two' is not of type int"),
        (["stepz=2", "--over", "steps=2,3"], "stepz: unknown key; did you mean 'steps'?"),
        (["--over", "regularizers.kl.coefficient=0.1,0.10"], "are the same recipe"),
        (["--over", "steps=2,2"], "2 is given twice"),
        (["--over", "steps=2", "--over", "steps=3"], "--over steps is given twice"),
        (["steps=2", "--over", "steps=3"], "steps is given both"),
        (["--over", "seed=1,2"], "--seeds N"),
        (["--over", "steps"], "is not of the form KEY=V1,V2,..."),
        (["--over", "model.config=null", "--over", "model.recipe=./nowhere.yaml"], "there is no recipe"),
        (["--report", "elsewhere"], "leave out the recipe"),
        (["other"], "there is no recipe other"),
        (["tiny.yaml"], "the recipe tiny.yaml is given twice"),
        (["./tiny.yaml"], "the cells tiny.yaml and ./tiny.yaml are the same recipe"),
    ],
)
def test_a_mistake_is_told_before_the_first_run(stand_in, arguments, message):
    done = align("sweep", "tiny.yaml", *arguments, "--out", "out")
    assert done.exit_code == 2 and message in done.output, done.output
    assert not stand_in() and not Path("out").exists()


def test_a_recipe_and_a_folder_are_needed(recipe):
    assert "--out" in align("sweep", "tiny.yaml").output
    assert "holds no sweep" in align("sweep", "--report", "out").output


def test_a_folder_that_holds_other_runs_is_refused(stand_in):
    folder = Path("out/tiny/seed_0")
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(nodes.resolved(load("tiny.yaml", ["optimizer.lr=0.5"]))), folder / "recipe.yaml")
    done = align("sweep", "tiny.yaml", "--seeds", 1, "--out", "out")
    assert done.exit_code == 2 and "optimizer.lr=0.5, but this sweep has 1e-06" in done.output
    assert not stand_in()


# Running


def test_numbers_are_told_over_the_seeds(stand_in, monkeypatch):
    monkeypatch.setattr("align.sweep.plot.draw", DRAWN)
    done = align("sweep", "tiny.yaml", "--over", "steps=2,3", "--out", "out")
    assert done.exit_code == 0 and "6/6  done    steps=3 seed 2" in done.output
    found = json.loads(Path("out/sweep.json").read_text())
    assert found["cells"][0]["metrics"]["pass@1"] == pytest.approx({"n": 3, "mean": 0.21, "min": 0.2, "max": 0.22, "std": 0.01})
    assert found["cells"][1]["metrics"]["train/reward/mean"] == {"n": 3, "mean": 3, "min": 3, "max": 3, "std": 0}
    assert found["before"]["pass@1"] == {"n": 3, "mean": 0.125, "min": 0, "max": 0.25, "std": 0.125}, "the same in both cells, by seed"
    markdown = Path("out/table.md").read_text()
    assert "| steps | seeds | pass@1 | train/reward/mean |" in markdown and "`align sweep tiny.yaml --over steps=2,3 --seeds 3`" in markdown
    assert "| before |  | 0.125 ± 0.125 (0.000–0.250) |  |" in markdown
    assert "| `2` | 3 | 0.210 ± 0.010 (0.200–0.220) | 2.0000 ± 0 (2.0000–2.0000) |" in markdown
    assert Path("out/sweep.png").read_bytes().startswith(b"\x89PNG")
    again = align("sweep", "--report", "out", "--metric", "entropy")
    assert again.exit_code == 0 and "0.310 ± 0.010" in again.output and "no run has a training metric entropy" in again.output


def test_two_recipes_are_compared_in_one_table(stand_in):
    Path("other.yaml").write_text("base: tiny.yaml\noptimizer: {lr: 0.5}\n")
    done = align("sweep", "tiny.yaml", "other.yaml", "steps=2", "--seeds", 1, "--out", "out")
    assert done.exit_code == 0 and "2/2  done    other seed 0" in done.output, done.output
    markdown = Path("out/table.md").read_text()
    assert "`align sweep tiny.yaml other.yaml steps=2 --seeds 1`" in markdown
    assert "| recipe | seeds |" in markdown and "| `other.yaml` | 1 |" in markdown
    assert align("sweep", "--report", "out").exit_code == 0


def test_a_failure_stops_nothing_else_and_is_tried_again(stand_in):
    first = align("sweep", "tiny.yaml", "--over", "steps=13,2", "--seeds", 2, "--out", "out")
    assert first.exit_code == 1
    assert "steps=13 seed 1 failed: steps: it broke (log: out/steps=13/seed_1.log)" in first.output
    assert [(s["cell"], s["seed"]) for s in stand_in()] == [("steps=13", 0), ("steps=2", 0), ("steps=13", 1), ("steps=2", 1)]
    assert "| `13` | 0 of 2 | - | - |" in Path("out/table.md").read_text()
    report = align("sweep", "--report", "out")
    assert report.exit_code == 0 and "steps=13 seed 0 failed: steps: it broke" in report.output
    second = align("sweep", "tiny.yaml", "--over", "steps=13,2", "--seeds", 2, "--out", "out")
    assert second.exit_code == 1 and "4 runs in out, 2 finished before" in second.output
    assert [s["cell"] for s in stand_in()[4:]] == ["steps=13", "steps=13"], "what has finished is kept"


@pytest.mark.parametrize("checkpoint", [True, False])
def test_an_unfinished_run_goes_on_from_its_checkpoint_or_starts_anew(stand_in, checkpoint):
    folder = Path("out/tiny/seed_0")
    (folder / "checkpoints" / ("step_000001" if checkpoint else "unfinished_000001")).mkdir(parents=True)
    next((folder / "checkpoints").iterdir()).joinpath("driver.json").touch()
    (folder / "x").touch()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(nodes.resolved(load("tiny.yaml"))))
    assert align("sweep", "tiny.yaml", "--seeds", 1, "--out", "out").exit_code == 0
    (started,) = stand_in()
    assert started["resume"] == started["kept"] == checkpoint


def test_jobs_run_side_by_side_but_not_into_the_same_warm_start(stand_in):
    (Path("warm.yaml")).write_text(RECIPE)
    options = ["optimizer.lr=0.3", "--seeds", 3, "--jobs", 3]
    assert align("sweep", "tiny.yaml", "steps=98", *options, "--out", "beside").exit_code == 0  # one after the other would wait forever
    assert [s["seen"] for s in stand_in()] == [0, 0, 0]
    assert align("sweep", "tiny.yaml", "model={config: null, recipe: ./warm.yaml}", *options, "--out", "warm").exit_code == 0
    assert [min(s["seen"], 1) for s in stand_in()[3:]] == [0, 1, 1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_stops_its_runs_and_they_stop_gently(stand_in, number):
    program = "import sys; from align.sweep import runner; from align import cli; runner.sys.executable = sys.argv.pop(1); cli.main()"
    command = [
        str(Path(sys.prefix) / "bin" / "python"),
        "-c",
        program,
        str(Path("python").absolute()),
        "sweep",
        "tiny.yaml",
        "--over",
        "steps=2,99",
        "--seeds",
        "1",
        "--out",
        "out",
    ]
    # Whoever runs the tests may be deaf to Ctrl-C; the sweep of this test is not.
    sweep = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    give_up = time.monotonic() + 60
    while not Path("out/steps=99/seed_0").is_dir():
        assert time.monotonic() < give_up and sweep.poll() is None
        time.sleep(0.02)
    busy = align("sweep", "tiny.yaml", "--out", "out")
    assert busy.exit_code == 2 and "at work in out" in busy.output
    sweep.send_signal(number)
    _, error = sweep.communicate(timeout=30)
    assert sweep.returncode == 130 and "The same command goes on" in error and "Traceback" not in error, error
    assert Path("out/steps=99/seed_0/stopped").exists()
    report = align("sweep", "--report", "out")
    assert "1 of 2 runs have not finished" in report.output and "0.200" in report.output


def test_real_runs(recipe):
    """One cell finishes; the other is stopped by its own limit, and its run is left to go on from."""
    done = align("sweep", "tiny.yaml", "--over", "max_engine_gap=1e-3,1e-30", "--seeds", 1, "--jobs", 2, "--out", "out")
    assert done.exit_code == 1
    assert "max_engine_gap=1e-30 seed 0 failed: " in done.output and "Traceback" not in done.output, done.output
    good, bad = json.loads(Path("out/sweep.json").read_text())["cells"]
    summary = json.loads(Path("out/max_engine_gap=1e-3/seed_0/summary.json").read_text())
    assert good["metrics"]["countdown/length"]["mean"] == summary["after"]["countdown/length"]
    assert bad["runs"][0]["state"] == "failed" and "max_engine_gap" in bad["runs"][0]["error"]


# Numbers


def test_statistics_over_seeds():
    assert statistics_of([1.0, 2.0, 4.0]) == pytest.approx({"n": 3, "mean": 7 / 3, "min": 1, "max": 4, "std": (7 / 3) ** 0.5})
    assert statistics_of([1.0, None, 3.0]) == {"n": 2, "mean": 2, "min": 1, "max": 3}
    assert statistics_of([None]) is None


def test_training_metrics_are_of_the_last_tenth():
    records = [{"step": i, "a/x": float(i), "b": 1.0} for i in range(20)] + [{"step": 20, "eval/a/x": 99.0}]
    assert training(records, ["a/*"]) == {"train/a/x": 18.5}
    records[-2]["a/x"] = None
    assert training(records, ["a/*"]) == {"train/a/x": None}
    assert training([], ["a/*"]) == {}


def test_progress_reads_a_file_that_is_being_written(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert latest(file) == (0, "")
    file.write_text('{"step": 6, "reward/mean": 0.5}\n{"step": 7, "eval/x": 1}\n{"step": 7, "rew')
    assert latest(file) == (7, "reward/mean 0.5000")
