"""The models that the tests of the learner share."""

from pathlib import Path

import pytest
from helpers.models import tiny_model


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def model(request, tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp(request.param), kind=request.param, tied=request.param == "qwen2")
