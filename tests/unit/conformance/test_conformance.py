"""The conformance kit on every part that comes with align, and on plugins with one defect each: every check must find its own."""

import importlib
import json
import subprocess
import sys

import pytest
from helpers.endpoint import Served
from helpers.fakes import reasoning_gym, wandb
from helpers.models import tiny_scorer
from helpers.plugins.defective import DEFECTS, GOOD, source
from typer.testing import CliRunner

from align.cli import app
from align.config import registry
from align.config.schema import RewardLimits
from align.errors import UserError
from align.testing import CHECKS, check, check_divergence, check_reward, environments, rewards
from align.testing.findings import Kit
from align.testing.targets import kind_of
from align.testing.tiny import tiny_model
from align.types import Prompt

SUM = {"generator": "sums", "options": {}, "size": 4, "seed": 0, "index": 2}
KEYS = {
    ("coefficient", "adaptive"): {"target": 0.1},
    ("coefficient", "constant"): {"value": 0.1},
    ("coefficient", "cosine"): {"start": 0.1, "end": 0.2, "steps": 5, "warmup": 2},
    ("coefficient", "grpo_d"): {"minimum": 0.1, "maximum": 0.2, "steps": 10},
    ("coefficient", "lagrangian"): {"target": 0.1},
    ("coefficient", "linear"): {"start": 0.2, "end": 0.0, "steps": 5},
    ("coefficient", "piecewise"): {"points": [[0, 0.1], [5, 0.2]]},
    ("coefficient", "ppo_penalty"): {"target": 0.1},
    ("coefficient", "warmup"): {"steps": 4, "to": "feasible"},
    ("engine", "scripted"): {"answers": ["1,2", "345678901234567"]},
    ("estimator", "top_k"): {"k": 3},
    ("preference", "cdpo"): {"label_smoothing": 0.1},
    ("preference", "robust"): {"label_smoothing": 0.1},
    ("reference", "checkpoint"): {"path": "OTHER"},
    ("reference", "context"): {"prepend": "1+2"},
    ("reference", "hard_reset"): {"every": 2},
    ("reference", "soup"): {"paths": ["OTHER"]},
    ("reference", "teacher"): {"path": "OTHER"},
    ("reference", "window"): {"last": 2, "every": 1, "decay": 0.5},
    ("regularizer", "composed"): {"coefficient": 0.1},
    ("reward", "format"): {"tags": ["think", "answer"]},
    ("reward", "http"): {"url": "SERVER"},
    ("reward", "judge"): {"url": "SERVER", "model": "m"},
    ("reward", "learned"): {"path": "SCORER", "gold": "countdown_exact", "max_batch": 5},
    ("reward", "length"): {"maximum": 10, "buffer": 4, "unit": "characters"},
    ("reward", "math"): {"seconds": 0.9},
    ("reward", "sum"): {"rewards": {"exact": "countdown_exact", "wordy": "countdown_wordy"}, "weights": {"wordy": 0.5}},
    ("shaping", "off_policy_mask"): {"threshold": 0.1},
    ("shaping", "overlong"): {"limit": 3, "buffer": 2},
    ("shaping", "uncertainty_bonus"): {"steps": 5},
    ("task", "countdown"): {"size": 200, "demonstrations": True},
    ("task", "gsm8k"): {"path": "WORDS"},
    ("task", "jsonl"): {"path": "ROWS", "eval_path": "HELD_OUT"},
    ("task", "labelled"): {"path": "LABELS", "held_out": "countdown"},
    ("task", "math"): {"path": "WORDS"},
    ("task", "mix"): {
        "sources": {"one": {"name": "jsonl", "path": "ROWS", "eval_path": "HELD_OUT"}, "other": {"name": "countdown", "size": 64}}
    },
    ("task", "preferences"): {"path": "PAIRS", "eval_path": "HELD_OUT_PAIRS", "held_out": "countdown"},
    ("task", "reasoning_gym"): {"generator": "sums", "size": 4},
    ("reward", "reasoning_gym"): {"prompts": [Prompt(id="sum", text="2+1=", token_ids=(1,), fields=SUM)]},
    ("weighting", "advantage_sign"): {"positive": 1.0, "negative": 2.0},
    ("weighting", "entropy_gate"): {"keep": "high", "quantile": 0.5},
    ("weighting", "log_ratio_sign"): {"above": 1.0, "below": 2.0},
    ("weighting", "normalized"): {"of": "difficulty"},
    ("weighting", "token_mask"): {"first": 1},
}
"""Of parts that have keys without a default, or do little without them."""
KNOWN = {("engine", "scripted"): {"samples"}}
"""What its docstring owns up to: no true divergence, a sampler that draws nothing."""
PARTS = [(kind, name) for kind in registry.ROOMS for name in registry.shipped(kind) if name not in ("vllm", "code")]
"""vLLM has the same contract in its own system test: it takes twelve seconds to start. The reward `code`, which starts processes for
every text of the kit, has a few of them in its own test."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(30)]
    pairs = [{"prompt": f"{i},1,1,1={i + 3}:", "chosen": f"{i}+1+1+1", "rejected": f"{i}"} for i in range(4, 10)]
    labels = [{"prompt": row["prompt"], "completion": row["chosen"], "label": i % 2 == 0} for i, row in enumerate(pairs)]
    words = [
        {"question": row["prompt"], "problem": row["prompt"], "answer": f"#### {i}", "solution": f"\\boxed{{{i}}}"}
        for i, row in enumerate(rows)
    ]
    written = {"LABELS": labels, "WORDS": words, "ROWS": rows[:20], "HELD_OUT": rows[20:], "PAIRS": pairs[:4], "HELD_OUT_PAIRS": pairs[4:]}
    for name, part in written.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    models = {"OTHER": str(tiny_model(folder / "other", seed=1)), "SCORER": str(tiny_scorer(folder / "scorer"))}
    return models | {"SERVER": Served().url} | {name: str(folder / name) for name in written}


def filled(value, files: dict[str, str]):
    if isinstance(value, list):
        return [filled(v, files) for v in value]
    if isinstance(value, dict):
        return {k: filled(v, files) for k, v in value.items()}
    return files.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize(("kind", "name"), PARTS, ids=lambda x: x)
def test_every_part_conforms(kind, name, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "reasoning_gym", reasoning_gym)
    keys = {key: filled(value, files) for key, value in KEYS.get((kind, name), {}).items()}
    failed = {f.name: f.found for f in check(kind, name, **keys) if not f.passed}
    assert failed.keys() == KNOWN.get((kind, name), set()), failed


@pytest.mark.parametrize("keys", [{}, {"divergence": "jensen_shannon", "weighting": "sampo"}, {"estimator": "exact"}], ids=str)
def test_a_link_conforms(keys):
    assert {f.name: f.found for f in check("regularizer", "composed", coefficient=0.1, placement="link", **keys) if not f.passed} == {}


@pytest.mark.parametrize(
    "keys",
    [
        {"name": "dpo", "preference": {"name": "robust", "label_smoothing": 0.2}, "per_token": True},
        {"name": "dpo", "preference": "ipo"},
        {"name": "ppo", "risk": 0.5, "advantage": {"whiten": False}},
        {"name": "reward_model", "centre": 0.1},
        {"name": "grpo", "surrogate": "answer_clipped"},
        {"name": "grpo", "advantage": "leave_one_out", "surrogate": "cispo"},
    ],
    ids=str,
)
def test_algorithms_conform_under_other_keys(keys):
    name, rest = keys["name"], {k: v for k, v in keys.items() if k != "name"}
    assert {f.name: f.found for f in check("algorithm", name, **rest) if not f.passed} == {}


def test_there_is_a_kit_for_every_kind():
    assert CHECKS.keys() == registry.ROOMS.keys()


# Plugins with a defect


@pytest.fixture
def plugin(tmp_path):
    def written(kind: str, change=str) -> str:
        (tmp_path / f"{kind}.py").write_text(source(kind, change))
        return f"{tmp_path}/{kind}.py:Part"

    return written


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_plugin_passes_and_is_known_by_what_it_defines(kind, plugin):
    name = plugin(kind)
    assert kind_of(name) == kind
    assert {f.name: f.found for f in check(kind, name) if not f.passed} == {}


def kit(kind: str) -> Kit:
    return importlib.import_module(CHECKS[kind].__module__).KIT


@pytest.mark.parametrize(("kind", "name"), DEFECTS, ids=lambda x: x)
def test_a_defect_is_found(kind, name, plugin, monkeypatch):
    monkeypatch.setattr(rewards, "LIMITS", RewardLimits(seconds=0.05))
    monkeypatch.setattr(environments, "SECONDS", 0.05)
    monkeypatch.setattr(kit(kind), "checks", [c for c in kit(kind).checks if c.name == name])
    found = {f.name: f for f in check(kind, plugin(kind, DEFECTS[kind, name]))}
    assert not found[name].passed
    assert found[name].found and len(found[name].mend) >= 20 and len(found[name].expected) > 10


def test_every_check_is_known_to_find_something():
    general = {"docstring", "keys", "refuse"}
    for kind in CHECKS:
        names = {c.name for c in kit(kind).checks}
        assert names - general == {n for k, n in DEFECTS if k == kind} - general - {"is built"}, kind


# The functions and the command


def align(*arguments: str):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


class Hellinger:
    """Squared Hellinger distance."""

    power: float = 0.5

    def f(self, log_u):
        return (log_u * self.power).expm1() ** 2


def test_a_part_is_given_as_a_name_a_class_or_built():
    assert all(f.passed for f in check_divergence("tsallis", q=0.5))
    assert all(f.passed for f in check_divergence(Hellinger, power=0.5))
    assert all(f.passed for f in check_divergence(registry.resolve("divergence", "tsallis", "")(q=0.5)))
    (finding,) = check_divergence(Hellinger())
    assert not finding.passed and "give the class" in finding.found


def test_a_key_that_is_wrong_is_a_part_that_is_not_built():
    (finding,) = check_divergence("tsallis", q=-1.0)
    assert (finding.name, finding.passed) == ("is built", False) and "q must be positive" in finding.found


def test_a_reward_is_checked_with_prompts_of_its_own():
    prompts = [Prompt(id="1", text="2+2=", token_ids=(1,), fields={"answer": "4"})]
    assert all(f.passed for f in check_reward("match", prompts=prompts))
    without = [Prompt(id="1", text="2+2=", token_ids=(1,))]
    assert not all(f.passed for f in check_reward("match", prompts=without))


def test_the_command_prints_a_table_and_says_how_to_mend(plugin):
    good, bad = align("check", "tsallis", "q=0.5"), align("check", plugin("divergence", DEFECTS["divergence", "f(1) = 0"]))
    assert good.exit_code == 0 and "0 failed" in good.stdout and "f(1) = 0" in good.stdout
    assert bad.exit_code == 1 and "f(1) is 1" in bad.stdout and "subtract f(1) from f" in bad.stdout
    assert "expected: f is 0 if policy and reference agree" in " ".join(bad.stdout.split())


def test_json_holds_every_finding(plugin):
    found = json.loads(align("check", plugin("coefficient"), "first=0.2", "--json").stdout)
    assert found["kind"] == "coefficient" and {f["passed"] for f in found["findings"]} == {True}
    assert [set(f) for f in found["findings"]] == [{"name", "passed", "expected", "found", "mend"}] * len(found["findings"])


def test_prompts_from_a_file(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "2+2=", "answer": "4"}) + "\n")
    assert align("check", "match", "--prompts", rows).exit_code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["constant"], "constant could be coefficient, reduction: say which with --kind"),
        (["tsalis"], "did you mean 'tsallis'?"),
        (["tsallis", "--kind", "divergance"], "did you mean 'divergence'?"),
        (["tsallis", "--model", "somewhere"], "--model changes nothing for a divergence"),
        (["linear", "start=0.1", "--prompts", "nowhere.jsonl"], "there is no such file"),
        (["./nowhere.py:Nothing"], "there is no plugin file"),
        (["tsallis", "q"], "'q' is not of the form key=value"),
    ],
    ids=" ".join,
)
def test_mistakes_end_with_2(words, says):
    result = align("check", *words)
    assert result.exit_code == 2 and says in result.stderr and result.stdout == ""


def test_a_kind_that_cannot_be_told_is_asked_for(tmp_path):
    (tmp_path / "odd.py").write_text(
        "class Both:\n    def f(self, log_u): ...\n    def beta(self, step, state): ...\nclass Neither:\n    pass\n"
    )
    with pytest.raises(UserError, match=r"could be coefficient, divergence: say which with --kind"):
        kind_of(f"{tmp_path}/odd.py:Both")
    with pytest.raises(UserError, match=r"of no kind by what it defines .*coefficient: beta.*: say which it is to be with --kind"):
        kind_of(f"{tmp_path}/odd.py:Neither")
    assert align("check", f"{tmp_path}/odd.py:Both", "--kind", "coefficient").exit_code == 1


@pytest.mark.parametrize("kind", registry.ROOMS)
def test_every_shipped_class_is_known_for_its_kind(kind):
    for name in registry.shipped(kind):
        cls = registry.resolve(kind, name, name)
        assert kind_of(f"{cls.__module__}:{cls.__name__}") == kind


def test_help_loads_no_heavy_library():
    program = (
        "import sys\n"
        "from align.cli import app\n"
        "for command in ('audit', 'check'):\n"
        "    try: app([command, '--help'])\n"
        "    except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'ray', 'transformers', 'numpy', 'omegaconf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Example:\n") == 2
