"""The kernels in Triton's interpreter, in a process of its own: they share what a divergence's first use costs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.timeout(900)  # minutes of computing, which a busy machine stretches
def test_the_kernels_in_the_interpreter(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "1", "ALIGN_KERNELS_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "--durations=5", "-p", "no:cacheprovider", str(HERE / "interpreted")]
    done = subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
