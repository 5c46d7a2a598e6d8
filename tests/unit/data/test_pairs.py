"""`align pairs`: which answers become pairs and rankings, what is counted, and that a file is whole or not there."""

import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from align.cli import app
from align.config.recipes import build
from align.engines.scripted import RunningScripted
from align.errors import UserError
from align.learner.learner import Learner
from align.rewards.countdown_wordy import CountdownWordy
from align.tasks.countdown import Countdown
from align.tasks.preferences import Preferences
from align.testing.tiny import tiny_model
from align.tools.pairs import draw
from align.types import Prompt

DIGITS = """
class Digits:
    '''Digits in the answer; fails where there is none.'''

    def score(self, prompt, response):
        digits = sum(c.isdigit() for c in response)
        if not digits:
            raise ValueError("no digit")
        return float(digits)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def recipe(model, tmp_path, monkeypatch):
    """Builds a recipe of one process from changed keys, in a working directory with a reward and prompts of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.py").write_text(DIGITS)
    rows = [{"prompt": f"{i}=", "id": f"q{i}", "level": i} for i in range(6)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def recipe(**keys):
        return build(
            {
                "steps": 1,
                "task": {"name": "jsonl", "path": "prompts.jsonl"},
                "algorithm": "grpo",
                "reward": f"{tmp_path}/digits.py:Digits",
                "model": {"path": str(model)},
                "batch": {"prompts": 4, "samples": 4},
                "sampling": {"max_tokens": 8},
                "workers": {"backend": "local"},
            }
            | keys
        )

    return recipe


def scripted(*answers: str) -> dict:
    return {"name": "scripted", "answers": list(answers)}


def rows(file) -> list[dict]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


# What becomes of the answers


def test_a_pair_is_two_texts_whose_rewards_differ(recipe, tmp_path):
    out = tmp_path / "new" / "pairs.jsonl"
    draw(recipe(engine=scripted("1", "22", "1", "3")), out)
    found = rows(out)
    assert [(r["id"], r["prompt"], r["level"]) for r in found] == [(f"q{i}", f"{i}=", i) for i in range(6)]
    assert {(r["chosen"], r["chosen_reward"], r["rejected_reward"]) for r in found} == {("22", 2.0, 1.0)}
    assert {r["rejected"] for r in found} == {"1", "3"}
    assert list(found[0]) == ["id", "prompt", "chosen", "rejected", "chosen_reward", "rejected_reward", "level"]


def test_prompts_that_are_too_long_are_left_out_and_told(recipe, tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "1="}\n{"prompt": "1234567="}\n')
    task = {"name": "jsonl", "path": "prompts.jsonl", "max_prompt_tokens": 4, "too_long": "drop"}
    draw(recipe(engine=scripted("1", "22", "1", "3"), task=task), tmp_path / "pairs.jsonl")
    assert [row["prompt"] for row in rows(tmp_path / "pairs.jsonl")] == ["1="]
    assert "1 of 2 prompts beyond task.max_prompt_tokens, 4, are left out" in " ".join(capsys.readouterr().out.split())


def test_no_learner_is_loaded(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Learner, "__init__", None)
    with pytest.raises(TypeError):
        Learner(None, None)
    drawn = draw(recipe(engine=scripted("1", "22", "1", "3")), tmp_path / "pairs.jsonl")
    assert len(drawn.best) == 6


def test_every_prompt_and_every_answer_is_counted(recipe, tmp_path):
    # Four answers to each of six prompts, four prompts a batch: a script of sixteen, then its first eight.
    drawn = draw(
        recipe(
            engine=scripted(
                "1",
                "22",
                "333",
                "22",  # a pair, one answer repeated
                "1",
                "2",
                "3",
                "4",  # no difference
                "123456789",
                "",
                "1",
                ":",  # cut, empty, the only one of use, without a reward
                "1",
                "1",
                "22",
                "12345678",  # a pair, one repeated, one cut: its end token is the ninth
            )
        ),
        tmp_path / "pairs.jsonl",
    )
    assert Counter(r["id"] for r in rows("pairs.jsonl")) == {"q0": 1, "q3": 1, "q4": 1}
    assert (drawn.prompts, drawn.even, drawn.few, len(drawn.best)) == (6, 2, 1, 3)
    assert (drawn.answers, drawn.cut, drawn.blank, drawn.repeated, drawn.failed) == (24, 2, 1, 3, 1)
    assert drawn.first_failure.startswith("prompt q2: ValueError: no digit")
    assert drawn.prompts == drawn.even + drawn.few + len(drawn.best)


def test_several_pairs_of_a_prompt_differ(recipe, tmp_path):
    draw(recipe(engine=scripted("1", "22", "333", "4444")), tmp_path / "pairs.jsonl", per_prompt=4)
    found = rows("pairs.jsonl")
    assert [r["id"] for r in found[:5]] == ["q0-1", "q0-2", "q0-3", "q0-4", "q1-1"]
    assert len({(r["id"][:2], r["chosen"], r["rejected"]) for r in found}) == 24
    assert all(r["chosen_reward"] > r["rejected_reward"] for r in found)
    # Six pairs are there: asking for more gives all.
    draw(recipe(engine=scripted("1", "22", "333", "4444")), tmp_path / "all.jsonl", per_prompt=99)
    assert len({(r["chosen"], r["rejected"]) for r in rows("all.jsonl")}) == 6 and len(rows("all.jsonl")) == 36


def test_a_ranking_has_strictly_falling_rewards(recipe, tmp_path):
    drawn = draw(recipe(engine=scripted("1", "333", "2", "22")), tmp_path / "ranked.jsonl", rankings=True)
    found = rows("ranked.jsonl")
    assert [r["rewards"] for r in found] == [[3.0, 2.0, 1.0]] * 6
    assert {tuple(r["answers"]) for r in found} == {("333", "22", "1"), ("333", "22", "2")}
    assert ([a.reward for a in drawn.best], [a.tokens for a in drawn.worst]) == ([3.0] * 6, [2] * 6)


def test_what_is_written_is_what_preferences_read(recipe, tmp_path):
    drawing = recipe(engine=scripted("1", "333", "22", "4444"))
    draw(drawing, tmp_path / "pairs.jsonl")
    draw(drawing, tmp_path / "ranked.jsonl", rankings=True)
    assert [(e.id, e.ranked) for e in Preferences("pairs.jsonl").examples()] == [
        (r["id"], (r["chosen"], r["rejected"])) for r in rows("pairs.jsonl")
    ]
    assert [e.ranked for e in Preferences("ranked.jsonl", answers="answers").examples()] == [("4444", "333", "22", "1")] * 6
    # New answers to the same prompts, whose old rewards do not travel.
    draw(recipe(task={"name": "preferences", "path": "pairs.jsonl"}, engine=scripted("1", "55555")), tmp_path / "again.jsonl")
    assert rows("again.jsonl")[0] == {
        "id": "q0",
        "prompt": "0=",
        "chosen": "55555",
        "rejected": "1",
        "chosen_reward": 5.0,
        "rejected_reward": 1.0,
        "level": 0,
    }


def test_a_conversation_stays_one(recipe, tmp_path):
    turns = [{"role": "user", "content": "1+1"}]
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": turns}) + "\n")
    tokenizer = Countdown().tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}={% endfor %}"
    folder = tiny_model(tmp_path / "chat")
    tokenizer.save_pretrained(folder)
    draw(recipe(engine=scripted("1", "22")), tmp_path / "pairs.jsonl", model=folder)
    assert rows("pairs.jsonl")[0]["prompt"] == turns
    assert Preferences("pairs.jsonl").examples()[0].messages == tuple(turns)


# A model's own answers


def countdown(recipe, **keys):
    return recipe(task={"name": "countdown", "size": 40}, reward="countdown_wordy", sampling={"max_tokens": 16}, **keys)


def test_the_same_seed_gives_the_same_bytes_and_the_rewards_are_those_of_the_answers(recipe, tmp_path):
    for name, seed in (("a", None), ("b", 0), ("c", 1)):
        draw(countdown(recipe), tmp_path / name, seed=seed, per_prompt=2)
    a, b, c = (Path(name).read_bytes() for name in "abc")
    assert a == b != c
    assert len(rows("a")) > 10
    for row in rows("a"):
        prompt = Prompt(id=row["id"], text=row["prompt"], token_ids=(), fields=row)
        assert [row["chosen_reward"], row["rejected_reward"]] == pytest.approx(
            [CountdownWordy().score(prompt, row[side])["total"] for side in ("chosen", "rejected")], rel=1e-6
        )
        assert row["chosen"] != row["rejected"] and row["chosen_reward"] > row["rejected_reward"]


def test_prompts_are_drawn_by_the_seed_and_none_twice(recipe, tmp_path):
    asked = {}
    for seed in (0, 1):
        drawn = draw(countdown(recipe, engine=scripted("1", "12")), tmp_path / f"{seed}", prompts=10, seed=seed)
        assert drawn.prompts == 10
        asked[seed] = [r["id"] for r in rows(f"{seed}")]
    assert len(set(asked[0])) == len(set(asked[1])) == 10 and asked[0] != asked[1]
    with pytest.raises(UserError, match=r"--prompts 41: the task has 40 training prompts"):
        draw(countdown(recipe), tmp_path / "x", prompts=41)


def test_the_model_is_the_initial_policy_or_the_one_that_is_given(recipe, tmp_path, model):
    other = tiny_model(tmp_path / "other", seed=1)
    for name, path, given in (("a", other, None), ("b", model, other), ("c", model, None)):
        draw(countdown(recipe, model={"path": str(path)}), tmp_path / name, prompts=10, model=given)
    a, b, c = (Path(name).read_bytes() for name in "abc")
    assert a == b != c
    with pytest.raises(UserError, match=r"nowhere holds no model \(no config\.json\)"):
        draw(countdown(recipe), tmp_path / "x", model=tmp_path / "nowhere")


def test_what_only_training_needs_is_not_loaded(recipe, tmp_path):
    kl = {"coefficient": 0.1, "reference": {"name": "teacher", "path": "no/such/model"}}
    draw(recipe(engine=scripted("1", "22"), regularizers={"kl": kl}), tmp_path / "pairs.jsonl")
    assert len(rows("pairs.jsonl")) == 6


# Mistakes


def test_a_file_is_whole_or_not_there(recipe, tmp_path, monkeypatch):
    before = set(tmp_path.iterdir())
    with pytest.raises(
        UserError,
        match=r"pairs\.jsonl was not written: no prompt has two answers with different rewards\. Of 6 "
        r"prompts, 6 have equal rewards and 0 fewer than two usable answers; of 24 answers, 0 were cut, 0 "
        r"empty, 12 repeated, 0 without a reward\. More --samples",
    ):
        draw(recipe(engine=scripted("1", "2")), tmp_path / "pairs.jsonl")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunningScripted, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw(recipe(engine=scripted("1", "22")), tmp_path / "pairs.jsonl")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("keys", "options", "message"),
    [
        ({}, {"rankings": True, "per_prompt": 2}, r"--per-prompt changes nothing with --rankings"),
        ({"algorithm": "ppo", "batch": {"prompts": 4, "samples": 1}}, {}, r"give --samples 2 or more"),
        ({"algorithm": "sft", "reward": None, "batch": {"prompts": 4}}, {}, r"names no reward .*--reward NAME"),
        ({}, {"reward": "countdown_exakt"}, r"--reward: no reward is called 'countdown_exakt'; did you mean 'countdown_exact'"),
        ({}, {"address": "auto"}, r"--address auto changes nothing with workers\.backend: local"),
    ],
    ids=lambda x: "",
)
def test_what_cannot_be_asked_for(recipe, tmp_path, keys, options, message):
    with pytest.raises(UserError, match=message):
        draw(recipe(engine=scripted("1", "22"), **keys), tmp_path / "pairs.jsonl", **options)
    assert not (tmp_path / "pairs.jsonl").exists()


def test_a_file_that_is_there_is_kept(recipe, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"pairs\.jsonl exists: choose another file with --out, or delete it"):
        draw(recipe(engine=scripted("1", "22")), tmp_path / "pairs.jsonl")
    with pytest.raises(UserError, match=r"x/pairs\.jsonl cannot be written: "):
        (tmp_path / "x").write_text("a file")
        draw(recipe(engine=scripted("1", "22")), tmp_path / "x" / "pairs.jsonl")
    assert (tmp_path / "pairs.jsonl").read_text() == "mine"


def test_a_field_that_would_be_overwritten_is_refused(recipe, tmp_path):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "1", "chosen": "2"}) + "\n")
    with pytest.raises(UserError, match=r"prompts\.jsonl, line 1: its field 'chosen' is what a pair calls its own"):
        draw(recipe(engine=scripted("1", "22")), tmp_path / "pairs.jsonl")


def test_the_command_draws_and_shows_what_it_drew(recipe, tmp_path, model):
    (tmp_path / "small.yaml").write_text(f"""
        steps: 1
        task: {{name: jsonl, path: prompts.jsonl}}
        algorithm: sft
        engine: {{name: scripted, answers: ["1", "22", "333"]}}
        model: {{path: {model}}}
        sampling: {{max_tokens: 8}}
        workers: {{backend: local}}
    """)
    result = CliRunner().invoke(
        app,
        [
            "pairs",
            "small",
            "batch.prompts=3",
            "--reward",
            f"{tmp_path}/digits.py:Digits",
            "--samples",
            "3",
            "--rankings",
            "--prompts",
            "4",
            "--out",
            "ranked.jsonl",
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    shown = [line.split() for line in result.stdout.splitlines()]
    assert ["rankings", "4"] in shown and ["answers", "12"] in shown and ["mean", "best", "worst"] in shown
    assert ["reward", "3", "1"] in shown and ["length,", "tokens", "4", "2"] in shown
    assert [r["answers"] for r in rows("ranked.jsonl")] == [["333", "22", "1"]] * 4
    without = CliRunner().invoke(app, ["pairs", "small"], catch_exceptions=False)
    assert without.exit_code == 2 and "--out" in without.output
