"""The order of the suite: two workers take one file after the other (`--dist loadfile --no-loadscope-reorder`), those of minutes first.

A file of minutes that is begun last keeps one worker busy while the other has nothing left to do. Here is no import but pytest's and
the standard library's: the tests of a GPU run where little else is installed.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import shapes

# What is imported and collected lives to the end: the collector would go through its million objects again and again.
gc.disable()
shapes.check()
# A thread for each tensor of a model of 26 takes longer than the tensors.
os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"

ROOT = Path(__file__).parent
FIRST = (
    "kernels/test_interpreter.py",
    "system/test_ray_workers.py",
    "kernels/test_aot.py",
    "system/test_runs.py",
    "system/test_examples.py",
    "unit/runs/test_sweep.py",
    "unit/conformance/test_liveness.py",
    "system/test_vllm_engine.py",
    "compare/test_compare.py",
    "unit/learner/test_head.py",
    "unit/runs/test_stopped_runs.py",
    "unit/conformance/test_conformance.py",
    "unit/interface/test_api.py",
    "kernels/test_launch.py",
    "kernels/test_codegen.py",
    "system/test_ppo_closed_form.py",
    "system/test_closed_form.py",
    "property/test_batches.py",
    "unit/regularizer_oracles/test_unbiased_cells.py",
    "unit/regularizer_oracles/test_refused_cells.py",
    "kernels/test_backends.py",
    "kernels/test_apart.py",
    "kernels/test_by_f_compiled.py",
    "kernels/test_bench.py",
)
"""What takes 20 seconds and more, longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {ROOT / name: i for i, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(FIRST)))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def without_plots() -> Iterator[None]:
    """Drawing takes a second a run. tests/unit/telemetry draws. Neither is a configuration written out."""
    if "align.train" not in sys.modules:
        yield
        return
    from helpers import blank_plots, quick_configs

    quick_configs.install()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("align.telemetry.plots.draw", blank_plots.blank)
        yield
