"""The order of the suite: each worker takes one file after the other (`--dist loadfile --no-loadscope-reorder`), those of minutes first.

A file of minutes that is begun last keeps one worker busy while the others have nothing left to do. Those that wait for Ray alternate
with those that compute. Here is no import but pytest's and the standard library's: the tests of a GPU run where little else is installed.
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
    "system/test_ray_workers.py",
    "kernels/test_interpreter.py",
    "system/test_runs.py",
    "system/test_methods.py",
    "unit/conformance/test_liveness.py",
    "system/test_chaos.py",
    "unit/conformance/test_conformance.py",
    "system/test_ray_failures.py",
    "kernels/test_launch.py",
    "system/test_examples.py",
    "system/test_ppo_closed_form.py",
    "system/test_vllm_engine.py",
    "system/test_ray_clusters.py",
    "system/test_closed_form.py",
    "system/test_gpu_placement.py",
    "unit/regularizer_oracles/test_unbiased_cells.py",
    "system/test_learned_reward_actor.py",
    "kernels/test_aot.py",
    "unit/learner/test_architectures.py",
    "unit/runs/test_sweep.py",
    "compare/test_compare.py",
    "kernels/test_backends.py",
    "unit/interface/test_fuzz.py",
    "unit/interface/test_api.py",
    "unit/conformance/test_verdict.py",
    "unit/regularizer_oracles/test_refused_cells.py",
    "property/test_divergence_of_a_log_ratio.py",
    "kernels/test_apart.py",
    "property/test_batches.py",
    "unit/runs/test_stopped_runs.py",
    "unit/regularizers/test_penalty.py",
    "unit/conformance/test_audit.py",
    "kernels/test_by_f_compiled.py",
    "unit/config/test_one_file_a_word.py",
    "unit/learner/test_host_waits.py",
    "unit/interface/test_handbook.py",
)
"""What takes 12 seconds and more, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {ROOT / name: i for i, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(FIRST)))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def without_plots() -> Iterator[None]:
    """Drawing takes a second a run. tests/unit/telemetry draws. Neither is a configuration written out, nor a command made twice."""
    if "align.train" not in sys.modules:
        yield
        return
    from helpers import blank_plots, quick_configs

    quick_configs.install()
    if "typer.testing" in sys.modules:
        from helpers import quick_commands

        quick_commands.install()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("align.telemetry.plots.draw", blank_plots.blank)
        yield
