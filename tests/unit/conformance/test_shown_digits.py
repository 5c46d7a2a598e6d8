"""What `align check` prints of a float32 number: four digits, not the binary fraction behind it."""

import re

import pytest
import torch

from align.surrogates.reinforce import Reinforce
from align.testing import check_surrogate, check_weighting
from align.testing.findings import shown
from align.weightings import Weighting


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (torch.tensor(0.1), "0.1"),
        (torch.tensor([0.3, -1e-9, 12345.678]), "[0.3, -1e-09, 1.235e+04]"),
        (torch.tensor(float("nan")), "nan"),
        (-0.5, "-0.5"),
    ],
    ids=str,
)
def test_four_digits(number, text):
    assert shown(number) == text


class Below(Weighting):
    """A weight of -0.1."""

    def weights(self, batch, name):
        return torch.full((len(batch.seq_ids),), -0.1)


class Tilted(Reinforce):
    """A tenth too much."""

    def loss(self, log_rho, advantages, at):
        loss, cut = super().loss(log_rho, advantages, at)
        return 1.1 * loss, cut


@pytest.mark.parametrize(("check", "part"), [(check_weighting, Below), (check_surrogate, Tilted)])
def test_no_finding_has_raw_digits(check, part):
    found = [f.found for f in check(part) if not f.passed]
    assert found and not [text for text in found if re.search(r"\d\.\d{6,}", text)], found
