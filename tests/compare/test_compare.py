"""The comparison finds what differs by one bit, and nothing else; once on real runs."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from compare import accepted, report, results, runs
from compare.__main__ import main
from compare.differences import METRICS, MISSING, Difference, Place, differences, same

ROOT = Path(__file__).parents[2]
LOSS, WEIGHT = Place(METRICS, "loss/policy", 0), Place("model/model.safetensors", "head.weight")
NEXT = math.nextafter(0.1, 1)


def a_run(loss: float = 0.1, last: float = 1.0) -> dict:
    return {LOSS: loss, WEIGHT: torch.tensor([1.0, float("nan"), last])}


def test_equal_runs_have_no_difference():
    assert differences(a_run(), a_run()) == []


def test_one_bit_of_a_metric_is_found_and_shown():
    (found,) = differences(a_run(0.1), a_run(NEXT))
    assert found == Difference(LOSS, 0.1, NEXT)
    assert report.verdict([found], 2, 0) == "DIFFERS: step 0  loss/policy  0.10000000000000001 -> 0.10000000000000002"


def test_one_bit_of_a_tensor_is_found_and_measured():
    last = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)).item()
    (found,) = differences({WEIGHT: torch.tensor([1.0, 2.0])}, {WEIGHT: torch.tensor([last, 2.0])})
    assert found.place == WEIGHT and found.largest == 2.0**-23
    assert report.verdict([found], 1, 0) == "DIFFERS: 1 tensors differ, by at most 1.19e-07 (model/model.safetensors: head.weight)"


def test_a_weight_that_became_nan_counts_as_the_furthest():
    found = differences(
        {WEIGHT: torch.ones(2), WEIGHT._replace(name="b"): torch.ones(2)},
        {WEIGHT: torch.tensor([1.0, math.nan]), WEIGHT._replace(name="b"): torch.zeros(2)},
    )
    assert "by at most nan (model/model.safetensors: head.weight)" in report.verdict(found, 2, 0)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (math.nan, math.nan, True),
        (0.0, -0.0, False),
        (1, 1.0, False),
        (True, 1, False),
        (None, None, True),
        ("x", "x", True),
        (torch.tensor(math.nan), torch.tensor(math.nan), True),
        (torch.tensor(0.0), torch.tensor(-0.0), False),
        (torch.zeros(2), torch.zeros(2, 1), False),
        (torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16), False),
        (MISSING, None, False),
    ],
    ids=str,
)
def test_same(a, b, equal: bool):
    assert same(a, b) is equal


def test_a_type_that_changed_is_no_distance_of_zero():
    (found,) = differences({WEIGHT: torch.zeros(2)}, {WEIGHT: torch.zeros(2, dtype=torch.bfloat16)})
    assert found.largest is None and "float32[2] -> bfloat16[2]" in report.verdict([found], 1, 0)


def test_a_hash_has_no_distance():
    assert Difference(WEIGHT, torch.zeros(8, dtype=torch.uint8), torch.ones(8, dtype=torch.uint8)).largest is None


@pytest.mark.parametrize("tree", ["BASE", "HEAD"])
def test_a_metric_of_one_tree_alone_is_listed_by_name(tree: str):
    more = a_run() | {Place(METRICS, "grad/norm", step): 1.0 for step in (0, 1)}
    found = differences(more, a_run()) if tree == "BASE" else differences(a_run(), more)
    assert report.details(found) == [f"only in {tree}: grad/norm"]


def test_the_first_difference_is_of_the_earliest_step():
    base = {Place(METRICS, name, step): 0.0 for name in ("a", "b") for step in (0, 1)}
    found = differences(base, base | {Place(METRICS, "a", 1): 1.0, Place(METRICS, "b", 0): 2.0, Place(METRICS, "b", 1): 2.0})
    assert report.first(found).place == Place(METRICS, "b", 0)
    assert report.details(found) == ["step 1  a  0 -> 1", "step 0  b  0 -> 2  (at 2 steps)"]


def test_a_rename_is_no_difference():
    head = {Place(METRICS, "surrogate", 0): 0.1, Place("model/model.safetensors", "lm.weight"): a_run()[WEIGHT]}
    assert len(differences(a_run(), head)) == 4
    assert differences(a_run(), head, {"loss/policy": "surrogate", "head.*": "lm.*"}) == []
    with pytest.raises(ValueError, match="two names of BASE become b"):
        differences({Place(METRICS, "a", 0): 1.0, Place(METRICS, "b", 0): 1.0}, {}, {"a": "b"})


def test_accepted_differences_are_those_of_their_recipe_and_metric(tmp_path: Path):
    file = tmp_path / "expected.yaml"
    file.write_text("- {recipe: p*, metric: loss/*, reason: another mean}\n")
    entries = accepted.load(file, ["ppo", "dpo"])
    found = differences(a_run(), a_run(NEXT, last=2.0))
    refused, taken = accepted.split("ppo", found, entries)
    assert [d.place for d in taken] == [LOSS] and [d.place for d in refused] == [WEIGHT] and entries[0].used == 1
    assert accepted.split("dpo", found, entries) == (found, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "must be a list"),
        ("- {recipe: ppo, metric: loss}", "entry 1 must have the keys recipe, metric and reason"),
        ("- {recipe: ppo, metric: loss, reason: ''}", "each a text"),
        ("- {recipe: pqo, metric: loss, reason: r}", "there is no recipe pqo"),
        ("- [", "cannot be read"),
    ],
)
def test_an_entry_that_is_none_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "expected.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        accepted.load(tmp_path / "expected.yaml", ["ppo"])


def test_overrides_go_to_their_recipe_and_an_empty_one_leaves_the_key_out():
    overrides = ["ppo:algorithm.epochs=3", "workers.backend=", "steps=2", "dpo:batch="]
    recipe, passed = runs.written("ppo", Path("/inputs"), overrides)
    assert passed == ["algorithm.epochs=3", "steps=2"] and recipe["workers"] == {} and "batch" in recipe
    assert runs.COMMON["workers"] == {"backend": "local"}
    for wrong in ("ppo", "pqo:steps=2", "=2"):
        with pytest.raises(ValueError, match="is not"):
            runs.parsed(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-ref"], "BASE=no-such-ref cannot be checked out"),
        (["HEAD", "--rename", "a*=b"], "is not OLD=NEW"),
        (["HEAD", "--override-head", "steps"], "is not [RECIPE:]KEY=VALUE"),
        (["HEAD", "--only", "pqo"], "invalid choice: 'pqo'"),
    ],
)
def test_a_wrong_command_ends_with_2_and_says_what_is_wrong(arguments: list[str], message: str, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["compare", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err


def test_a_run_that_left_too_little_is_not_compared(tmp_path: Path):
    (tmp_path / METRICS).write_text('{"step": 0, "loss/policy": 0.5}\n')
    with pytest.raises(results.Incomplete, match=r"steps \[0\], not of all 2"):
        results.read(tmp_path, 2)
    with pytest.raises(results.Incomplete, match="no tensor in model"):
        results.read(tmp_path, 1)


def test_two_runs_are_equal_and_one_of_another_seed_is_not(tmp_path: Path):
    runs.write_inputs(tmp_path)
    trees = [runs.Tree("one", ROOT), runs.Tree("again", ROOT), runs.Tree("other", ROOT, ["seed=1"])]
    runs.check_sources(trees[0])
    with ThreadPoolExecutor(len(trees)) as pool:
        done = list(pool.map(lambda tree: runs.run("exact_kl", tree, tmp_path, tmp_path / tree.name), trees))
    assert [run.failure for run in done] == [None] * 3
    one, again, other = (results.read(run.folder, runs.STEPS) for run in done)
    assert differences(one, again) == []
    found = differences(one, other)
    assert "step 0" in report.verdict(found, len(one), 0) and "tensors differ, by at most" in report.verdict(found, len(one), 0)
    assert {"loss/policy", "grad/norm"} <= {d.place.label for d in found} and report.first(found).place.step == 0
    assert {"model/model.safetensors", "checkpoints/step_000004/learner/tensors_00000.safetensors", METRICS} <= {
        d.place.file for d in found
    }
    assert not [place for place in one if "time" in place.name or "seconds" in place.name]
