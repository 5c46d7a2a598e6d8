"""The kernels can be launched: by Triton's own binder and compiler for two GPUs, without one."""

import contextlib
import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from align_kernels import triton_rows
from align_kernels.triton_rows.launch import launch_rows
from kernel_bench import hand_written

HERE = Path(__file__).parent
BACKEND = make_backend(GPUTarget("cuda", 90, 32))


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """By architecture and launch: how often each kernel was compiled, or the error."""
    caches = {name: str(tmp_path_factory.mktemp(name.lower())) for name in ("TRITON_CACHE_DIR", "ALIGN_KERNELS_CACHE")}
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | caches | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, str(HERE / "launches.py"), "90", "80"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_every_kernel_binds_and_compiles(launched):
    failed = {name: told for name, told in launched.items() if isinstance(told, str)}
    assert not failed
    kernels = {"row_stats_kernel", "row_sum_kernel", "row_grad_kernel", "one_pass_kernel"}
    for arch in (80, 90):
        assert kernels <= {k for name, compiled in launched.items() if name.startswith(f"sm_{arch}") for k in compiled}


def test_lengths_temperatures_and_numbers_compile_nothing_again(launched):
    again = {name: compiled for name, compiled in launched.items() if "again" in name}
    assert len(again) == 6 and not any(again.values()), again


def _decorated() -> dict[str, JITFunction]:
    modules = [importlib.import_module(f"{triton_rows.__name__}.{m.name}") for m in pkgutil.iter_modules(triton_rows.__path__)]
    found = {
        f"{module.__name__}.{name}": value
        for module in (*modules, hand_written)
        for name, value in vars(module).items()
        if isinstance(value, JITFunction) and value.fn.__module__ == module.__name__
    }
    assert len([name for name in found if name.endswith("_kernel")]) == 4
    return found


DECORATED = _decorated()


@pytest.mark.parametrize("name", DECORATED)
def test_no_argument_has_a_name_of_the_launchers_own(name):
    """A launch goes through source that Triton generates around the arguments' names."""
    kernel = DECORATED[name]
    assert _bound(kernel) == ["fp32" for p in kernel.params if not p.is_constexpr]


def test_a_name_of_the_launchers_own_is_noticed():
    @triton.jit
    def kernel(Z, params):
        pass

    with pytest.raises(TypeError, match="dict"):
        _bound(kernel)


@pytest.mark.parametrize("is_cuda", [True, False])
def test_a_kernel_runs_on_the_device_of_its_rows(is_cuda, monkeypatch):
    current, ran = ["cuda:0"], []

    @contextlib.contextmanager
    def changed(to):
        current.append(str(to))
        yield
        current.pop()

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **constants: ran.append((grid, current[-1], arguments[1:], constants))

    class Rows(list):
        device = torch.device("cuda:1")

    monkeypatch.setattr(Rows, "is_cuda", is_cuda, raising=False)
    monkeypatch.setattr(torch.cuda, "device", changed)
    launch_rows(Kernel(), Rows([0.0] * 3), 7, B=8)
    launch_rows(Kernel(), Rows(), 7, B=8)
    assert ran == [((3,), "cuda:1" if is_cuda else "cuda:0", (7,), {"B": 8})] and current == ["cuda:0"]


def _bound(kernel: JITFunction) -> list[str]:
    """The types that the launcher finds where every argument that is no constexpr is 0.5."""
    signature = inspect.signature(kernel.fn)
    launcher = create_function_from_signature(signature, kernel.params, BACKEND)
    given, types, _ = launcher(**dict.fromkeys(signature.parameters, 0.5))
    assert given == dict.fromkeys(signature.parameters, 0.5)
    return [kind for kind, *_ in types if kind != "constexpr"]
