from pathlib import Path

import pytest
from helpers.models import tiny_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))
