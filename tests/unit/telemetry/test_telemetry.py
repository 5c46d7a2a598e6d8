"""What a run shows and keeps: valid files, aligned lines, a picture, a table."""

import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from align import telemetry
from align.errors import UserError
from align.telemetry import Telemetry, plots
from align.telemetry.progress import Pace, Plain, trend
from align.telemetry.report import table
from align.telemetry.units import duration, show, unit
from align.telemetry.writers import Metrics, finite, read


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def screen(monkeypatch):
    """A console of 120 columns that is no terminal."""
    console = Console(file=io.StringIO(), width=120, highlight=False, soft_wrap=True)
    monkeypatch.setattr(telemetry, "_console", console)
    return console


# Files


def test_a_line_is_on_disk_as_soon_as_its_step_is_done(tmp_path, screen):
    run = Telemetry(tmp_path, steps=2)
    run.evaluation(0, {"countdown/pass@1": 0.25})
    run.step(0, {"reward/mean": 0.5, "loss": float("nan"), "grad/norm": float("inf"), "entropy": np.float32(0.5), "lr": torch.tensor(2.0)})
    assert lines(tmp_path / "metrics.jsonl") == [
        {"step": 0, "eval/countdown/pass@1": 0.25},
        {"step": 0, "reward/mean": 0.5, "loss": None, "grad/norm": None, "entropy": 0.5, "lr": 2.0},
    ]
    run.close()


def test_resuming_keeps_the_past_and_drops_what_will_be_lived_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "a": 0.1}\n{"step": 1, "a": null}\n{"step": 2, "a": 3}\n{"step": 2, "eval/a": 4}\n{"step": 3, "a"')
    metrics = Metrics(path, first_step=2)
    metrics.write(2, {"a": 7.0})
    metrics.close()
    assert lines(path) == [{"step": 0, "a": 0.1}, {"step": 1, "a": None}, {"step": 2, "a": 7.0}]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_run_from_the_start_keeps_nothing_of_an_older_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "a": 0.1}\n')
    Metrics(path, first_step=0).close()
    assert path.read_text() == ""


@pytest.mark.parametrize("bad", ["{broken", "[1]", '{"a": 1}', "3"])
def test_a_line_that_is_no_metric_is_named(tmp_path, bad):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 0}}\n{bad}\n{{"step": 1}}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: not a line of metrics"):
        read(path)


def test_finite_is_valid_json_at_any_depth():
    data = {"a": [1, float("-inf"), {"b": np.float64("nan")}], 3: ("x", True, None), "n": np.int64(4)}
    assert finite(data) == {"a": [1, None, {"b": None}], "3": ["x", True, None], "n": 4.0}
    json.dumps(finite(data), allow_nan=False)


# Numbers


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("reward/mean", 0.41237, "0.4124"),
        ("reward/mean", -12.3456, "-12.35"),
        ("reward/mean", 12345.6, "12,346"),
        ("kl/ref/k3", 0.000123, "1.23e-04"),
        ("kl/ref/k3", 0.0123, "0.0123"),
        ("kl/ref/k3", 0.0, "0"),
        ("countdown/pass@1", 0.33333, "0.333"),
        ("tokens/s", 10311.7, "10,312"),
        ("wall_seconds", 91.72, "91.7"),
        ("steps", 80, "80"),
        ("loss", float("nan"), "-"),
        ("loss", float("inf"), "-"),
        ("loss", None, "-"),
    ],
)
def test_show(metric, value, shown):
    assert show(metric, value) == shown


def test_a_change_has_its_sign():
    assert show("countdown/pass@1", 0.25, signed=True) == "+0.250"
    assert show("kl/initial", -2.5, signed=True) == "-2.5000"


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("kl/initial", "nats/response"),
        ("divergence/kl", "nats/response"),
        ("kl/ref/k3", "nats/token"),
        ("engine/gap", "nats/token"),
        ("entropy", "nats/token"),
        ("tokens/s", "tokens/s"),
        ("time/step", "s"),
        ("train_seconds", "s"),
        ("sort/pass@1", "share"),
        ("response/length", "tokens"),
        ("reward/mean", ""),
    ],
)
def test_units(metric, label):
    assert unit(metric).label == label


def test_durations():
    assert [duration(s) for s in (None, 0.4, 59.6, 3599, 3600, 7325)] == ["-", "0:00", "1:00", "59:59", "1:00:00", "2:02:05"]


def test_the_time_left_is_the_recent_pace_times_the_steps_left():
    times = iter([100.0, 110.0, 112.0])
    pace = Pace(steps=10, clock=lambda: next(times))
    pace.tick()
    assert pace.left(1) is None
    pace.tick()
    assert pace.left(2) == 80.0  # 10 s a step, 8 left
    pace.tick()
    assert pace.left(3) == 42.0  # 12 s for two steps, 7 left


def test_only_the_last_twenty_steps_count_for_the_pace():
    now = {"time": 0.0}
    pace = Pace(steps=100, clock=lambda: now["time"])
    for seconds in [1000.0] * 5 + [2.0] * 20:
        pace.tick()
        now["time"] += seconds
    pace.tick()
    assert pace.seconds_per_step() == 2.0


def test_trend_goes_from_the_lowest_to_the_highest():
    assert trend([0.0, 7.0]) == "▁█"
    assert trend([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert trend([1.0, float("nan"), 3.0, float("inf")]) == "▁█"
    assert trend([2.0, 2.0]) == "▁▁" and trend([2.0]) == ""
    assert trend([float(i // 10) for i in range(240)]) == trend([float(i) for i in range(24)])


# Progress


def test_plain_lines_are_aligned_and_without_escapes(screen):
    clock = iter([0.0, 2.0, 4.0])
    plain = Plain(screen, 10, 0, clock=lambda: next(clock))
    for step, kl in ((0, 0.0), (8, 0.00012), (9, 0.25)):
        plain.step(step, {"reward/mean": 0.5, "kl/ref/k3": kl, "loss/policy": -0.01, "tokens/s": 10000.0, "not/shown": 1.0})
    text = screen.file.getvalue()
    assert text == (
        "step   1/10  reward/mean    0.5000  kl/ref/k3         0  loss/policy   -0.0100  tokens/s    10,000  eta         -\n"
        "step   9/10  reward/mean    0.5000  kl/ref/k3  1.20e-04  loss/policy   -0.0100  tokens/s    10,000  eta      0:02\n"
        "step  10/10  reward/mean    0.5000  kl/ref/k3    0.2500  loss/policy   -0.0100  tokens/s    10,000  eta      0:00\n"
    )


def test_the_live_table_shows_the_numbers_and_gives_the_terminal_back(tmp_path, monkeypatch):
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    monkeypatch.setattr(telemetry, "_console", console)
    run = Telemetry(tmp_path, steps=4)
    run.note("loading [model]")
    assert "\x1b[?25l" not in console.file.getvalue()  # no display before there is a number
    run.evaluation(0, {"countdown/pass@1": 0.25})
    for step in range(4):
        run.step(step, {"reward/mean": 0.25 * step, "kl/ref/k3": 0.5, "tokens/s": 1000.0})
    run.close()
    run.close()
    shown = console.file.getvalue()
    last = shown[shown.rindex("step 4/4") :]
    assert "100%" in last and "held out, after 0 steps: countdown/pass@1 0.250" in last
    reward = next(line for line in last.splitlines() if "reward/mean" in line)
    assert reward.split() == ["reward/mean", "0.7500", "0", "▁▃▆█"]
    assert "loading [model]" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back


# Picture and report


def test_series_places_a_step_after_its_update_and_leaves_gaps():
    records = [{"step": 0, "eval/x": 1.0}, {"step": 0, "a": 2.0, "b": None}, {"step": 1, "a": 3.0, "b": 4.0}, {"step": 2, "eval/x": 5.0}]
    assert plots.series(records) == {"eval/x": ([0, 2], [1.0, 5.0]), "a": ([1, 2], [2.0, 3.0]), "b": ([2], [4.0])}


def test_smoothing_is_a_centred_mean():
    values = [float(v) for v in range(40)]
    values[20] = 50.0  # 40 values: one neighbour on either side
    smoothed = plots.smooth(values)
    assert smoothed[20] == pytest.approx((19 + 50 + 21) / 3) and smoothed[10] == 10.0
    assert (smoothed[0], smoothed[39]) == (0.5, 38.5)
    assert list(plots.smooth([1.0, 5.0])) == [1.0, 5.0]


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")
def test_the_picture_has_a_panel_for_what_was_measured(tmp_path):
    empty, full = tmp_path / "empty.jsonl", tmp_path / "full.jsonl"
    empty.write_text("")
    rows = [
        {
            "step": s,
            "reward/mean": s / 30,
            "kl/ref/k1": -0.1,
            "kl/ref/k3": 0.1,
            "grad/norm": 10.0 ** (s - 15),
            "entropy": None,
            "beta/kl": 0.0,
            "kl/engine": 1e-9,
            "critic/explained_variance": 0.1,
        }
        for s in range(30)
    ]
    rows += [{"step": s, "eval/countdown/pass@1": 0.5, "eval/countdown/pass@8": 0.9, "eval/kl/initial": 2.0} for s in (0, 30)]
    full.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {}
    for file in (empty, full):
        picture = plots.draw(file, tmp_path / "plots" / f"{file.stem}.png")
        data = picture.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        sizes[file.stem] = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    # At 110 dpi eight panels in rows of four; no row for entropy, which is all null.
    assert sizes == {"empty": (467, 320), "full": (1820, 671)}


def test_the_report_has_before_after_and_change():
    console = Console(file=io.StringIO(), width=120)
    console.print(
        table(
            {
                "before": {"countdown/pass@1": 0.25, "kl/initial": 0.0, "gone": 1.0},
                "after": {"countdown/pass@1": 0.75, "kl/initial": 2.5},
                "steps": 80,
                "tokens/s": 10011.6,
                "wall_seconds": 91.72,
                "nothing": None,
                "model": "/some/where",
            }
        )
    )
    rows = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in console.file.getvalue().splitlines()
        if "│" in line or "┃" in line
    ]
    assert rows == [
        ["metric", "before", "after", "change", "unit"],
        ["countdown/pass@1", "0.250", "0.750", "+0.500", "share"],
        ["KL to the initial policy", "0", "2.5000", "+2.5000", "nats/response"],
        ["gone", "1.0000", "-", "-", ""],
        ["steps", "", "80", "", ""],
        ["tokens/s", "", "10,012", "", ""],
        ["wall time", "", "91.7", "", "s"],
    ]


def test_no_row_of_the_report_is_a_raw_key():
    """Rows that are 0 in most runs are shown only where they are not."""

    def labels(**changed) -> list[str]:
        summary = {
            "before": {"my_suite/exact_match": 0.5},
            "steps": 3,
            "resumed_from": 0,
            "nothing_learned": 0,
            "train_seconds": 1.0,
        } | changed
        return [str(cell) for cell in table(summary).columns[0]._cells]

    assert labels() == ["my_suite/exact match", "steps", "training time"]
    assert labels(nothing_learned=2, resumed_from=1)[2:] == ["steps before the resume", "steps that learned nothing", "training time"]


def test_finish_writes_everything_and_says_where(tmp_path, screen):
    run = Telemetry(tmp_path / "run", steps=1)
    run.evaluation(0, {"sort/pass@1": 0.5})
    run.step(0, {"reward/mean": 0.5})
    run.evaluation(1, {"sort/pass@1": math.nan})
    run.finish({"before": {"sort/pass@1": 0.5}, "after": {"sort/pass@1": math.nan}, "tokens/s": None, "model": "m"})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary == {"before": {"sort/pass@1": 0.5}, "after": {"sort/pass@1": None}, "tokens/s": None, "model": "m"}
    assert (tmp_path / "run" / "plots" / "training.png").read_bytes()[:4] == b"\x89PNG"
    assert "summary.json, plots/training.png" in screen.file.getvalue() and "sort/pass@1" in screen.file.getvalue()


def test_a_resumed_run_draws_and_counts_the_whole(tmp_path, screen):
    first = Telemetry(tmp_path, steps=4)
    for step in range(3):
        first.step(step, {"reward/mean": float(step)})
    first.close()
    second = Telemetry(tmp_path, steps=4, first_step=2)
    for step in (2, 3):
        second.step(step, {"reward/mean": 10.0 + step})
    second.close()
    assert [(r["step"], r["reward/mean"]) for r in read(tmp_path / "metrics.jsonl")] == [(0, 0.0), (1, 1.0), (2, 12.0), (3, 13.0)]
    assert "step  3/4  reward/mean     12.00" in screen.file.getvalue()
