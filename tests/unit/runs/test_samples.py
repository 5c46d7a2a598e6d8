"""What a run keeps of what the model writes, and how `align show` prints it."""

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.models import tiny_model
from rich.console import Console

from align.config import recipes
from align.errors import UserError
from align.inspect import samples
from align.run.samples import FOLDER, HELD_OUT, SCHEMA, TRAINING
from align.train import train

REWARD = """
from align.rewards import Reward

class Half(Reward):
    def score(self, prompt, response):
        if "9" in prompt.text and "9" in response:
            raise ValueError("no")
        return {"total": len(response) % 3, "length": float(len(response))}
"""


def recipe(folder: Path, **changes):
    model = folder / "start"
    if not model.is_dir():
        tiny_model(model)
        (folder / "half.py").write_text(REWARD)
    node = {
        "steps": 3,
        "task": "countdown",
        "reward": f"{folder / 'half.py'}:Half",
        "algorithm": "grpo",
        "model": {"path": str(model)},
        "batch": {"prompts": 3, "samples": 4},
        "sampling": {"max_tokens": 5},
        "optimizer": {"lr": 0.05},
        "workers": {"backend": "local"},
        "evaluation": {"problems": 2, "samples": 2},
        "regularizers": {
            "kl": {"placement": "reward", "coefficient": 0.2},
            "js": {"divergence": "jensen_shannon", "estimator": "exact", "coefficient": 0.5},
        },
        "samples": {"every": 1, "prompts": 3},
    } | changes
    return recipes.build(node)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    train(recipe(folder), folder / "run")
    return folder / "run"


def metrics(run: Path) -> dict[int, dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in rows if "reward/mean" in row}


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def test_the_rows_are_the_answers_of_the_step_with_the_numbers_of_its_metrics(run: Path):
    for step, told in metrics(run).items():
        rows = samples.read(run / FOLDER / f"{TRAINING}_{step:06d}.parquet")
        assert len(rows) == 12 and {row["step"] for row in rows} == {step} and {row["version"] for row in rows} == {step}
        kept = [row for row in rows if row["reward"] is not None]
        assert len(rows) - len(kept) == told["reward/failed"]
        assert mean(row["reward"] for row in kept) == pytest.approx(told["reward/mean"], rel=1e-5)
        assert mean(row["reward_parts"]["length"] for row in kept) == pytest.approx(told["reward/length"], rel=1e-5)
        assert mean(row["length"] for row in kept) == pytest.approx(told["response/length"])
        for name, beta in (("kl", 0.2), ("js", 0.5)):
            assert mean(sum(row["divergence"][name]) for row in kept) == pytest.approx(told[f"divergence/{name}"], rel=1e-5, abs=1e-6)
            assert all(row["beta"][name] == pytest.approx(beta) for row in kept)
        for row in kept:
            assert len(row["tokens"]) == len(row["logp"]) == len(row["advantage"]) == len(row["log_ratio"]["kl"]) == row["length"]
            assert row["logp"] == pytest.approx(row["sampler_logp"], abs=1e-4)
            text = "".join(piece for piece in row["tokens"] if piece not in ("<eos>", "<bos>", "<pad>"))
            assert text == row["response"]
    assert any(row["log_ratio"]["js"] != [0.0] * row["length"] for row in kept)


def test_every_file_has_the_same_columns(run: Path):
    files = sorted((run / FOLDER).iterdir())
    assert len(files) == 5 and all(pq.read_schema(file) == SCHEMA for file in files)
    assert pq.read_table(run / FOLDER).num_rows == 3 * 12 + 2 * 4


def test_held_out_answers_have_the_recipes_reward(run: Path):
    rows = samples.read(run / FOLDER / f"{HELD_OUT}_000003.parquet")
    last = json.loads((run / "summary.json").read_text())["after"]
    judged = [row["reward"] for row in rows if row["reward"] is not None]
    assert last["countdown/reward"] == pytest.approx(mean(judged)) and {row["split"] for row in rows} == {"countdown"}


def test_nothing_is_kept_with_every_0_and_the_numbers_are_the_same(run: Path, tmp_path: Path):
    train(recipe(tmp_path, samples={"every": 0}), tmp_path / "run")
    assert not (tmp_path / "run" / FOLDER).exists()
    for step, told in metrics(tmp_path / "run").items():
        timeless = {name for name in told if not name.startswith(("time/", "memory/")) and name not in ("tokens/s", "sync/seconds")}
        assert {name: told[name] for name in timeless} == {name: metrics(run)[step][name] for name in timeless}
    with pytest.raises(UserError, match=r"samples\.every=0"):
        samples.recorded(tmp_path / "run", TRAINING)


def test_a_resumed_run_makes_later_records_again(tmp_path: Path):
    train(recipe(tmp_path, steps=2), tmp_path / "run")
    folder = tmp_path / "run" / FOLDER
    later = folder / f"{TRAINING}_000002.parquet"
    later.write_text("of a leg that was killed")
    (folder / f"{TRAINING}_000000 (copy).parquet").write_text("of somebody else")
    train(recipe(tmp_path, steps=3), tmp_path / "run", resume=True)
    assert len(samples.read(later)) == 12 and len(list(folder.iterdir())) == 3 + 3 + 1


def test_texts_that_no_file_can_hold(tmp_path: Path, run: Path):
    rows = samples.read(run / FOLDER / f"{TRAINING}_000000.parquet")
    console = Console(file=io.StringIO(), width=100)
    samples.print_answers([rows[0] | {"prompt": "[bold]x[/bold]"}], console, None)
    assert "[bold]x[/bold]" in console.file.getvalue()


def shown(run: Path, *orders: str, step: int | None = None, count: int = 3, tokens: str | None = None, color: bool = False) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=color, color_system="truecolor" if color else None)
    samples.show(run, step, orders, count, tokens, console)
    return console.file.getvalue()


def test_show_orders_by_reward(run: Path):
    rows = samples.chosen(run, 1, "worst", 12)
    rewards = [float("-inf") if row["reward"] is None else row["reward"] for row in rows]
    assert rewards == sorted(rewards) and {row["step"] for row in rows} == {1}
    assert [row["reward"] for row in samples.chosen(run, 1, "best", 2)] == sorted((r for r in rewards), reverse=True)[:2]
    both = [row["reward"] for row in samples.chosen(run, None, None, 2)]
    assert len(both) == 2 and both[0] is not None


def test_show_prints_prompt_answer_and_prices(run: Path):
    row = samples.chosen(run, None, "best", 1)[0]
    text = shown(run, "best", count=1)
    assert row["prompt"] in text and row["response"] in text and f"prompt {row['prompt_id']}" in text
    assert "js: " in text and "nats x beta 0.5000" in text


def test_the_most_expensive_token_is_the_reddest(run: Path):
    row = samples.chosen(run, None, "best", 1)[0]
    values = row["divergence"]["js"]
    dearest = row["tokens"][values.index(max(values))]
    assert f"\x1b[30;48;2;255;95;95m{dearest}\x1b[0m" in shown(run, "best", count=1, tokens="js", color=True)


def test_changed_compares_the_first_and_the_last_evaluation(run: Path):
    text = shown(run, "changed")
    assert text.count("after 0 steps") == text.count("after 3 steps") == 2


@pytest.mark.parametrize(
    ("orders", "options", "told"),
    [
        (("best", "worst"), {}, "give one of --best and --worst"),
        (("changed",), {"step": 1}, "no --step"),
        ((), {"step": 7}, "--step 7: not recorded; the run kept 0, 1, 2"),
        (("best",), {"tokens": "tv"}, "no such penalty; it has kl, js"),
    ],
)
def test_a_wrong_question_is_told(run: Path, orders, options, told):
    with pytest.raises(UserError, match=told):
        shown(run, *orders, **options)


def test_a_folder_of_no_run_and_a_damaged_record_are_told(run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="is not the folder of a run"):
        shown(tmp_path)
    (tmp_path / FOLDER).mkdir()
    with pytest.raises(UserError, match="has no training answers"):
        shown(tmp_path)
    (tmp_path / FOLDER / f"{TRAINING}_000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        shown(tmp_path)
