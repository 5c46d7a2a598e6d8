"""Here plots are drawn."""

import pytest
from helpers import blank_plots


@pytest.fixture(scope="package", autouse=True)
def with_plots(without_plots):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("align.telemetry.plots.draw", blank_plots.drawn)
        yield
