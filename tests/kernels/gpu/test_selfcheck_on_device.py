"""The check of a divergence's kernels at their first use, on a real device: it passes, it notices, it waits once."""

import dataclasses
import warnings

import pytest
import torch
from problems import CASES, DEVICE, normal

from align_kernels import DivergenceError, fused, token_stats
from align_kernels.triton_rows.selfcheck import check, check_log_prob

HERE = torch.zeros(1, device=DEVICE).device


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_every_divergence_passes(name, dtype):
    check(HERE, fused(CASES[name].f), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_probs_pass(dtype):
    check_log_prob(HERE, dtype)


def test_another_divergence_in_its_place_is_found():
    fn = dataclasses.replace(fused(CASES["reverse_kl"].f))
    fn._loaded[torch.float32] = fused(CASES["forward_kl"].f).triton()
    z, labels = normal(2, 500, seed=0), torch.zeros(2, dtype=torch.int64, device=DEVICE)
    with pytest.raises(DivergenceError, match=f"on {HERE} the kernel's value"):
        token_stats(z, labels, z + 1, fn, backend="triton")


def test_it_waits_for_the_device_once():
    fn = fused(CASES["le_cam"].f)
    check(HERE, fn, torch.float32)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            check.__wrapped__(HERE, fn, torch.float32)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in seen if "synchronizing" in str(w.message)]) == 1
