"""Texts that control a terminal, are no characters or are no recipe: shown as escapes, or refused in one line."""

import io
import json

import pytest
from helpers import mistakes
from helpers.mistakes import align, refused
from rich.console import Console

from align import telemetry
from align.errors import UserError
from align.tasks._rows import read
from align.telemetry import Telemetry, units
from align.telemetry.report import table
from align.terminal import SafeConsole, printable

HOSTILE = "a\x1b[2J\x1b]0;owned\x07\r\u202eb\ud800[red]"
SHOWN = r"a\x1b[2J\x1b]0;owned\x07\r\u202eb\ud800[red]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return mistakes.prepare(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "rows.jsonl").write_text(mistakes.ROWS)


@pytest.mark.parametrize("plain", ["", "two words", "é ü 漢字 😀", "👩\u200d🔬", "a\n\tb"])
def test_plain_text_is_left_as_it_is(plain: str):
    assert printable(plain) == plain


def test_controls_and_lone_surrogates_are_escapes():
    assert printable(HOSTILE) == SHOWN


@pytest.mark.parametrize("kind", [Console, SafeConsole])
def test_notes_names_of_metrics_and_tables_are_shown_as_they_are(tmp_path, monkeypatch, kind):
    out = io.StringIO()
    monkeypatch.setattr(telemetry, "_console", kind(file=out, width=200, highlight=False, soft_wrap=True))
    name = f"reward/{HOSTILE}"
    run = Telemetry(tmp_path, steps=1)
    run.note(HOSTILE)
    run.evaluation(0, {name: 1.0})
    run.step(0, {"reward/mean": 1.0, name: 0.5})
    run.finish({"before": {name: 1.0}, "after": {name: 2.0}, "[red]": 3})
    assert out.getvalue().count(SHOWN) == 3 and "[red] " in out.getvalue()
    assert not set(out.getvalue()) & set("\x1b\x07\r\u202e\ud800")


def test_a_console_escapes_what_is_in_any_table():
    out = io.StringIO()
    console = SafeConsole(file=out, width=200)
    console.print(HOSTILE)
    console.print(units.table({HOSTILE: 1.0}))
    console.print(table({"after": {HOSTILE: 1.0}}))
    assert out.getvalue().count(r"\x1b[2J\x1b]0;owned") == 3 and "\x1b" not in out.getvalue()


def test_a_message_of_an_error_is_escaped():
    found = align("explain", "small.yaml", "optimizer.schedule=a\x1b]0;b\x07")
    refused(found, r"optimizer.schedule=a\x1b]0;b\x07: cannot be read: unacceptable character")
    found = align("explain", "small.yaml", "\x1b\u202e=1")
    refused(found, r"\x1b\u202e: unknown key")
    assert "\x1b" not in found.output


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"prompt": "1 \\ud83d", "answer": "2"}', r"line 2: has \\ud83d, half of a surrogate pair"),
        (b'{"prompt": "1 \xed\xa0\x80", "answer": "2"}', r"line 2: has \\ud800, half of a surrogate pair"),
        (b'{"x": ' + b"[" * 101 + b"]" * 101 + b"}", "line 2: has lists or objects nested deeper than 100"),
        (b"[" * 100_000, "line 2: has lists or objects nested deeper than 100"),
        (b'{"prompt": "\xff"}', "line 2: is not JSON: 'utf-8' codec"),
    ],
)
def test_rows_that_no_tokenizer_takes(tmp_path, line: bytes, says: str):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"prompt": "\\ud83d\\ude00", "brackets": "' + b"[" * 200 + b'"}\n' + line)
    with pytest.raises(UserError, match=says):
        read(str(file))


def test_brackets_inside_a_text_nest_nothing(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": '[{"\\' * 200, "list": [[[1]]] * 60}))
    assert len(read(str(file))) == 1


CONFIG = ["task=countdown", "reward=countdown_exact", "model.path=null"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["batch.samples=2147483648"], "batch.samples: must be below 2147483648, not 2147483648"),
        (["batch.prompts=2147483647"], "batch.prompts: must be at most 1048576"),
        (["seed=1" + "0" * 400], "seed: must be within 64 bits"),
        (["optimizer.lr=1" + "0" * 400], "optimizer.lr: a number of 1329 bits is not of type float"),
        (["optimizer.betas=[0.9]"], "optimizer.betas: [0.9] is not of type tuple"),
        (["optimizer.betas=[0.9, 0.9, 0.9]"], "optimizer.betas: [0.9, 0.9, 0.9] is not of type tuple"),
        (["optimizer.betas={a: 1}"], "optimizer.betas: {'a': 1} is not of type tuple"),
        ([*CONFIG, "model.config=5"], "model.config: 5 is not of type dict"),
        ([*CONFIG, "model.config={hidden_size: 3}"], "model.config: names no model_type"),
        ([*CONFIG, "model.config={model_type: qwen2, hidden_size: abc}"], "Field 'hidden_size' expected int, got str"),
        ([*CONFIG, "model.config={model_type: qwen2, hidden_size: -3}"], "model.config: transformers cannot build it"),
        ([*CONFIG, "model.config={model_type: qwen2, hidden_act: nosuch}"], "transformers cannot build it: KeyError: 'nosuch'"),
        (["steps=" + "[" * 3000], "steps=[[["),
        (["steps=" + "[" * 60 + "]" * 60], "nested deeper than 50: is a bracket repeated?"),
    ],
)
def test_values_of_wrong_shape_are_one_line(overrides: list[str], says: str):
    found = align("train", "small.yaml", *overrides, "--no-check", "--out", "hostile")
    refused(found, says)
    assert len(found.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("text", [b"steps: " + b"[" * 3000, b"steps: \xff", b"\xff\xfe\x00", b"steps: 1\x00", b"? [1, 2]\n: 3", b"&a [*a]"])
def test_files_that_are_no_recipe(folder, text: bytes):
    (folder / "bad.yaml").write_bytes(text)
    found = align("explain", "bad.yaml")
    refused(found, "bad.yaml")
