"""What is read at the end of a check."""

from gpu_check.table import MOST_LINES, WIDTH, shown, table


def results(**stages) -> dict:
    return {"device": "cuda", "limit": 470.0, "seconds": 31.24, "stages": stages}


def stage(state: str, seconds: float = 0.0, **more) -> dict:
    return {"state": state, "seconds": seconds, "found": {}, "failed": {}} | more


def test_a_line_a_stage_then_what_each_found():
    text = table(
        results(
            probe=stage("passed", 12.0, found={"copy GB/s": 4212.5, "GEMM TFLOP/s": {"bf16": 701.23456, "to fp32": 650}}),
            train=stage("not run", why="omegaconf is missing"),
        )
    )
    assert text.splitlines() == [
        "stage  state    seconds",
        "probe  passed      12.0",
        "train  not run      0.0",
        "all                31.2 of 470 on cuda",
        "",
        "probe: passed",
        "  copy GB/s: 4212",
        "  GEMM TFLOP/s: bf16 701.2, to fp32 650",
        "",
        "train: not run: omegaconf is missing",
    ]


def test_a_failure_shows_its_traceback():
    text = table(results(head=stage("failed", 3.0, why="failed: 2^28", failed={"2^28": "Traceback\nValueError: no"})))
    assert text.endswith("head: failed: failed: 2^28\n  FAILED 2^28\n    Traceback\n    ValueError: no")


def test_a_long_finding_is_cut():
    text = table(results(train=stage("passed", found={"by step": list(range(500))})))
    *_, title, first, second, third = text.splitlines()
    assert title == "train: passed" and MOST_LINES == 3
    assert first.startswith("  by step: [0, 1,") and second.startswith("    ") and third.endswith(" ...")
    assert WIDTH - 5 < len(first) <= WIDTH


def test_numbers_have_four_digits():
    assert shown([1, 0.000123456, None, {"ms": 1234.5}, "x"]) == "[1, 0.0001235, -, ms 1234, x]"
