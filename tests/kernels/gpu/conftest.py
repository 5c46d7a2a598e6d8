"""Named by `make gpu-test` alone. Imports torch, triton, pytest and align_kernels, nothing else."""

import pytest
import torch


def pytest_sessionstart(session):
    if not torch.cuda.is_available():
        pytest.exit("these tests need a CUDA device, and torch finds none", returncode=1)
