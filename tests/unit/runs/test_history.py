"""history.jsonl: a line for each leg, and what a resume tells of changes."""

import json
from pathlib import Path

import pytest
from helpers.bandit_run import start

from align.errors import RunStopped
from align.learner.learner import Learner
from align.run import history
from align.run.signals import Terminated
from align.tasks import Example


def legs(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "run" / "history.jsonl").read_text().splitlines()]


PLUGIN = """
from align.tasks.jsonl import Jsonl
def judged(prompt, response):
    return float(len(response))
"""


def test_a_run_remembers_its_legs(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(PLUGIN)
    reward = {"reward": f"{tmp_path}/mine.py:judged"}
    monkeypatch.setattr("sys.argv", ["align", "train", "it is", "--out", "run"])
    start(tmp_path, steps=1, **reward)
    (tmp_path / "mine.py").write_text(PLUGIN + "# edited\n")
    monkeypatch.setattr(history, "versions", lambda: {"python": "9", "torch": "0.1"})
    monkeypatch.setattr(history, "_commit", lambda folder: "abc")
    capsys.readouterr()
    start(tmp_path, resume=True, steps=2, seed=3, **reward)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resuming with ")]
    first, second = legs(tmp_path)
    assert (first["leg"], first["resumed"], first["first_step"], first["reason"], first["changes"]) == (1, False, 0, "finished", [])
    assert (second["leg"], second["resumed"], second["first_step"], second["changes"]) == (2, True, 1, ["seed: 0 -> 3"])
    assert first["command"] == "align train 'it is' --out run" and first["start"] <= first["end"] <= second["start"]
    assert set(first["versions"]) == {"align", "torch", "transformers", "python"} and first["data"]["rows"] == 1
    assert set(first["commit"]) == {"align", "folder"}
    assert said[0] == "resuming with seed: 0 -> 3"
    assert f"resuming with versions: torch: {first['versions']['torch']} -> 0.1".replace("versions: ", "") in said
    old, new = (leg["plugins"][f"{tmp_path}/mine.py"] for leg in (first, second))
    assert f"resuming with plugin {tmp_path}/mine.py: {old} -> {new}" in said and old != new
    sources = sorted((tmp_path / "run" / "plugins").rglob("mine.py"))
    assert [s.read_text().endswith("# edited\n") for s in sources] == [False, True]


def test_an_installed_package_is_kept_by_its_version_and_hash(tmp_path: Path, monkeypatch, capsys):
    """As an entry point, and by its module; one that no distribution has brought is kept by its hash."""
    site = tmp_path / "site"
    for name in ("guest", "alone"):
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text("from .inner import judged\n")
        (site / name / "inner.py").write_text(PLUGIN)
    info = site / "guests-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guests\nVersion: 1.5\n")
    (info / "RECORD").write_text("guest/__init__.py,,\nguest/inner.py,,\n")
    (info / "entry_points.txt").write_text("[align.rewards]\njudged = guest:judged\n")
    monkeypatch.syspath_prepend(str(site))
    start(tmp_path, steps=1, reward="judged")
    (site / "guest" / "inner.py").write_text(PLUGIN + "# edited\n")
    start(tmp_path, resume=True, steps=2, reward="judged")
    old, new = (leg["packages"]["guest"] for leg in legs(tmp_path))
    assert old.startswith("guests 1.5 (") and len(old) == len("guests 1.5 ()") + 16 and old != new
    assert f"resuming with package guest: {old} -> {new}" in capsys.readouterr().out
    start(tmp_path, resume=True, steps=3, reward="alone:judged")
    assert legs(tmp_path)[2]["packages"].keys() == {"alone"} and legs(tmp_path)[2]["packages"]["alone"].startswith("no distribution (")


def test_changed_data_rows_are_told(tmp_path: Path, capsys, monkeypatch):
    start(tmp_path, steps=1)
    rows = {"rows": 2, "sha256": "ffff"}
    monkeypatch.setattr(history, "data_digest", lambda given: rows)
    start(tmp_path, resume=True, steps=2)
    assert "resuming with other data rows: 1 rows (" in capsys.readouterr().out and legs(tmp_path)[1]["data"] == rows
    start(tmp_path, resume=True, steps=3)
    assert "resuming with" not in capsys.readouterr().out


def test_the_hash_of_the_data():
    one, other = Example(id="1", text="a", fields={"n": 1}, where="f:1"), Example(id="2", text="b")
    known = history.data_digest([one, other])
    assert known == history.data_digest([Example(id="1", text="a", fields={"n": 1}, where="f:9"), other]) and known["rows"] == 2
    different = [
        [other, one],
        [one],
        [Example(id="1", text="a", fields={"n": 2}), other],
        [Example(id="1", text="a", answer="x", fields={"n": 1}), other],
        [Example(id="1", text="a", ranked=("x", "y"), fields={"n": 1}), other],
    ]
    assert known["sha256"] not in [history.data_digest(rows)["sha256"] for rows in different]


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        (None, "finished"),
        (KeyboardInterrupt(), "stopped by hand"),
        (Terminated(15), "stopped by SIGTERM"),
        (RunStopped("step 3: the loss is nan"), "step 3: the loss is nan"),
        (ZeroDivisionError("a\ndefect"), "ZeroDivisionError: a defect"),
    ],
)
def test_the_reason_of_an_end(stop: BaseException | None, reason: str):
    assert history.reason(stop) == reason


def test_a_leg_that_stops_says_why(tmp_path: Path, monkeypatch):
    def update(self, *args):
        raise RunStopped("step 0: enough")

    monkeypatch.setattr(Learner, "update", update)
    with pytest.raises(RunStopped):
        start(tmp_path)
    assert [leg["reason"] for leg in legs(tmp_path)] == ["step 0: enough"]


@pytest.mark.parametrize("left", ["", '{"leg": 1, "start": "s", "en'], ids=["without an end", "cut short"])
def test_a_leg_without_an_end_was_killed(left: str, tmp_path: Path, capsys):
    start(tmp_path, steps=1)
    file = tmp_path / "run" / "history.jsonl"
    file.write_text(left or json.dumps(legs(tmp_path)[0] | {"end": None, "reason": None}) + "\n")
    start(tmp_path, resume=True, steps=2)
    lines = file.read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[1])["leg"] == 2
    if left:
        assert lines[0] == left
    else:
        assert json.loads(lines[0])["reason"] == "killed, or its machine died"
        assert "has no end: it was killed, or its machine died" in capsys.readouterr().out
