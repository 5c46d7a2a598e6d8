"""Parts of a user's own."""

import pytest
from unit.explain.printed import PARTS


@pytest.fixture
def parts(tmp_path):
    file = tmp_path / "parts.py"
    file.write_text(PARTS)
    return str(file)
