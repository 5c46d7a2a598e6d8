"""The backend `compile` on a real device: minutes of compilation, so it has a file of its own to leave out."""

import pytest
from hidden import ERRORS, assert_right


@pytest.mark.parametrize("elements", [1 << 28, 1 << 20], ids=["whole", "blocks"])
@pytest.mark.parametrize("dtype", ERRORS)
def test_against_float64(dtype, elements):
    assert_right(dtype, "compile", elements)
