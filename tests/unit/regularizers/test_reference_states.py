"""Reference states that are kept for several updates: of the right sequences, with the head of the scoring."""

from types import SimpleNamespace

import pytest
import torch

from align.learner.reference_states import ReferenceStates


class Reference:
    """States of its own for every row, and a head that is another one each time."""

    def __init__(self):
        self.heads = 0

    def head(self):
        self.heads += 1
        return self.heads

    def hidden(self, micro):
        return torch.cat([torch.full((n, 2), float(row)) for row, n in zip(micro.rows, micro.lengths.tolist(), strict=True)])


def micro(*rows: int) -> SimpleNamespace:
    """Row r has r + 1 tokens."""
    return SimpleNamespace(rows=rows, lengths=torch.tensor(rows) + 1, input_ids=torch.zeros(1))


@pytest.mark.parametrize("on_device", [0, 1 << 20])
def test_kept_states_are_those_of_the_rows_asked_for(on_device):
    reference = Reference()
    states = ReferenceStates({"kl": reference}, on_device)
    for part in (micro(3, 1), micro(0, 2)):
        states.keep("kl", part, reference.hidden(part))
    asked = micro(2, 0, 3)
    expected = reference.hidden(asked)
    reference.hidden = None  # what is kept is not computed again
    assert torch.equal(states.of(["kl"], asked)["kl"], expected)


def test_the_head_is_that_of_the_scoring_until_the_next_batch():
    reference = Reference()
    states = ReferenceStates({"kl": reference, "other": reference}, 0)
    states.keep("kl", micro(0), torch.zeros(1, 2))
    assert [states.head(name) for name in ("kl", "other", "kl")] == [1, 1, 1]
    states.start_batch()
    assert states.head("kl") == 2
