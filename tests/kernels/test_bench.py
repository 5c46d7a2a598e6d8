"""The benchmark measures what it says: every provider of every job does the same job, and each row has its time, memory and error."""

import json

import pytest
import torch

from kernel_bench import __main__, divergences, report
from kernel_bench.jobs import BY_HAND, JOBS
from kernel_bench.measure import _peak, measure, run
from kernel_bench.problem import Shape, problem, truth
from kernel_bench.providers import FLOOR, available

SHAPE = Shape(48, 8, 50)


@pytest.fixture(scope="module")
def result() -> dict:
    jobs = [JOBS[name] for name in ("logits", "logp", "le_cam", "reverse_kl frozen head")]
    return measure(
        jobs,
        [SHAPE],
        device="cpu",
        dtype=torch.float32,
        rounds=3,
        seconds=0.0,
        drift=0.03,
        only=("ours torch", "eager", "linear_cross_entropy"),
    )


@pytest.mark.parametrize("job", JOBS)
def test_every_provider_does_the_job(job):
    """Loss and gradients of a mean over tokens, against float64; who compiles runs its loss uncompiled here."""
    at = problem(JOBS[job], SHAPE, torch.float32, "cpu", drift=0.3)
    loss, grads = truth(at)
    with torch.compiler.set_stance("force_eager"):
        for name, make in available(JOBS[job], "cpu").items():
            if name == FLOOR or name.startswith("ours compile"):
                continue
            found, found_grads = run(make(), at)
            torch.testing.assert_close(found.detach().double(), loss, rtol=2e-5, atol=1e-6, msg=name)
            for one, other in zip(found_grads, grads, strict=True):
                assert (one.double() - other).abs().max() < 2e-5 * other.abs().max(), name


@pytest.mark.parametrize("name", ["logp", "reverse_kl"])
def test_a_frozen_head_is_the_same_loss_without_the_heads_gradient(name):
    trained, frozen = (problem(JOBS[job], SHAPE, torch.float32, "cpu", drift=0.3) for job in (name, f"{name} frozen head"))
    assert len(trained.leaves) == 2 and [t is frozen.hidden for t in frozen.leaves] == [True] and not frozen.weight.requires_grad
    assert len(frozen.first(5).leaves) == 1 and not frozen.first(5).weight.requires_grad
    (loss, (of_hidden, _)), (same, (alone,)) = truth(trained), truth(frozen)
    assert torch.equal(loss, same) and torch.equal(of_hidden, alone)
    with torch.compiler.set_stance("force_eager"):
        run(available(frozen.job, "cpu")["torch.compile chunks"](), frozen)
    assert frozen.weight.grad is None


@pytest.mark.parametrize(("job", "products"), [("logp", 3), ("logp frozen head", 2), ("reverse_kl", 4), ("reverse_kl frozen head", 3)])
def test_the_floor_is_the_products_that_cannot_be_avoided(job, products):
    at = problem(JOBS[job], SHAPE, torch.float32, "cpu", drift=0.3)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counted:
        available(at.job, "cpu")[FLOOR]()(at)
    assert counted.get_total_flops() == products * 2 * SHAPE.tokens * SHAPE.width * SHAPE.vocabulary


def test_only_the_reverse_kl_is_written_by_hand(monkeypatch):
    monkeypatch.setattr("kernel_bench.providers.unavailable", lambda backend, device: None)
    who = {name for name, job in JOBS.items() if any(p.startswith(BY_HAND) for p in available(job, "cuda"))}
    assert who == {"reverse_kl", "reverse_kl frozen head"}


@pytest.mark.parametrize("name", divergences.DIVERGENCES)
def test_f_and_what_is_written_are_one_divergence(name):
    logp, ref = (torch.log_softmax(torch.randn(3, 9, generator=torch.Generator().manual_seed(i), dtype=torch.float64), -1) for i in (0, 1))
    measured = divergences.DIVERGENCES[name]
    torch.testing.assert_close((ref.exp() * measured.divergence.f(logp - ref)).sum(-1), measured.written(logp, ref), rtol=1e-12, atol=1e-14)


def test_each_row_has_time_memory_and_error(result):
    rows = {(r["job"], r["provider"]): r for r in result["rows"]}
    assert {job for job, _ in rows} == {"logits", "logp", "le_cam", "reverse_kl frozen head"}
    assert {p for job, p in rows if job == "le_cam"} == {
        FLOOR,
        "ours torch",
        "ours torch, logits kept",
        "ours torch, 16 blocks",
        "torch eager",
    }
    for (job, provider), row in rows.items():
        assert row["runs"] == 3 and 0 < row["ms_low"] <= row["ms"] <= row["ms_high"] and row["first_s"] > 0
        if provider != FLOOR:
            # What float32 logits leave of a gradient near the reference, whoever sums them.
            assert row["loss_error"] < 1e-4 and row["hidden_error"] < 1e-4 and row["peak_mib"] > 0
            assert (row["weight_error"] is None) == (job in ("logits", "reverse_kl frozen head"))


def test_peak_memory_is_what_lived_at_once():
    def one():
        a = torch.ones(1 << 18)
        b = a + 1
        del a
        return b + 1

    assert 0 <= _peak(one, "cpu") - (2 * 4 << 18) < 1024


def test_a_table_has_the_ratios():
    def row(job, provider, ms, **keys):
        return {
            "job": job,
            "shape": "s",
            "provider": provider,
            "ms": ms,
            "ms_low": ms,
            "ms_high": ms,
            "peak_mib": 1.0,
            "loss_error": None,
            "hidden_error": 1e-7,
            "weight_error": None,
            "failed": None,
        } | keys

    rows = [
        row("logp", "ours torch", 10.0),
        row("le_cam", FLOOR, 12.0, hidden_error=None),
        row("le_cam", "ours torch", 15.0),
        row("le_cam", "torch eager", 30.0),
        row("le_cam", "torch.compile", None, failed="out of memory"),
    ]
    found = {line[0]: line for line in report.lines({"rows": rows})["s", "le_cam"]}
    assert found["ours torch"][3:7] == ("1.50", "0.50", "80%", "")
    assert found["torch eager"][3:7] == ("", "1.00", "40%", "")
    assert found["torch.compile"][1] == "out of memory"
    # A frozen head beside a frozen head, the generated kernel beside the same form of the one by hand, which is nobody else's.
    frozen = [row("logp", "ours triton", 1.0), row("logp frozen head", "ours triton", 5.0)]
    times = {"ours triton": 10, "ours triton, logits kept": 8, f"{BY_HAND} triton": 8, f"{BY_HAND} triton, logits kept": 5, "liger": 4}
    frozen += [row("reverse_kl frozen head", name, ms) for name, ms in times.items()]
    found = {line[0]: line for line in report.lines({"rows": frozen})["s", "reverse_kl frozen head"]}
    assert found["ours triton"][3:7] == ("2.00", "2.50", "", "1.25") and found["ours triton, logits kept"][6] == "1.60"
    assert found[f"{BY_HAND} triton"][4:7] == ("2.00", "", "") and found["liger"][4] == "1.00"


def test_the_command_draws_a_measurement_made_elsewhere(result, tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps(result))
    __main__.main(["--read", str(tmp_path / "results.json"), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "le_cam, 48x8x50" in printed and "ours torch, logits kept" in printed
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_measures(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "kernel_bench.measure.available",
        lambda job, device: {name: make for name, make in available(job, device).items() if name in (FLOOR, "torch eager")},
    )
    asked = ["logp", "logp frozen head"]
    __main__.main(["--jobs", *asked, "--shapes", str(SHAPE), "--seconds", "0", "--rounds", "3", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(r["job"], r["provider"]) for r in rows] == [(j, p) for j in asked for p in (FLOOR, "torch eager")]
    assert (tmp_path / "bench.png").exists()


@pytest.mark.parametrize(
    ("arguments", "told"), [(["--jobs", "flops"], "invalid choice: 'flops'"), (["--read", "none.json"], "none.json is no measurement")]
)
def test_the_command_tells_what_it_cannot_do(arguments, told, tmp_path, capsys):
    with pytest.raises(SystemExit):
        __main__.main([*arguments, "--out", str(tmp_path)])
    assert told in capsys.readouterr().err
