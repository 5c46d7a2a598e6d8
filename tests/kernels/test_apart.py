"""A divergence's kernels are compiled in a process of their own, whose end is an error and not the end of a learner."""

import pytest
import torch

from align.divergences.reverse_kl import ReverseKl
from align_kernels.codegen import DivergenceError, fused
from align_kernels.triton_rows import apart, selfcheck


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setenv("ALIGN_KERNELS_CACHE", str(tmp_path / "sources"))


class WithSource:
    """A divergence whose emitted source is given."""

    name, params, power = "given", (), None

    def __init__(self, source: str):
        self._source = source

    def source(self, dtype: torch.dtype) -> str:
        return self._source


def test_every_pass_lies_in_the_compilers_cache_afterwards(tmp_path):
    apart.stop_unless_compiled(fused(ReverseKl()), torch.float32, 90)
    made = {p.name for p in (tmp_path / "triton").rglob("*.cubin")}
    assert made == {f"{name}_kernel.cubin" for name in ("row_sum", "row_grad", "one_pass")}
    assert len(list((tmp_path / "triton").rglob("*.cubin"))) == 6, "for float32 and for bfloat16 logits"


def test_a_process_that_the_compiler_ends_is_an_error():
    with pytest.raises(DivergenceError, match="given: the compiler ended its process with SIGABRT on the kernels for sm_90"):
        apart.stop_unless_compiled(WithSource("import os\nos.abort()\n"), torch.float32, 90)


def test_what_the_compiler_refuses_is_an_error():
    source = fused(ReverseKl()).source(torch.float32).replace("return", "return no_such_name +", 1)
    with pytest.raises(DivergenceError, match=r"given: its kernels cannot be compiled for sm_90: .*NameError.*no_such_name"):
        apart.stop_unless_compiled(WithSource(source), torch.float32, 90)


def test_a_compiler_that_does_not_end_is_stopped(monkeypatch):
    monkeypatch.setattr(apart, "SECONDS", 0.2)
    with pytest.raises(DivergenceError, match=r"not compiled after 0\.2 s"):
        apart.stop_unless_compiled(WithSource("import time\ntime.sleep(60)\n"), torch.float32, 90)


def test_the_first_use_on_a_gpu_compiles_apart(monkeypatch):
    asked = []

    def stop(fn, dtype, arch):
        asked.append((fn.name, dtype, arch))
        raise DivergenceError("stopped here")

    monkeypatch.setattr(selfcheck, "stop_unless_compiled", stop)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(DivergenceError, match="stopped here"):
        selfcheck.check(torch.device("cuda", 0), fused(ReverseKl()), torch.float32)
    assert asked == [(fused(ReverseKl()).name, torch.float32, 86)]
