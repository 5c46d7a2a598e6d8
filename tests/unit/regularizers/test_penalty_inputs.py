"""Arguments of `align.penalty` that are no log-probs give one line with the argument's name, and no error of torch."""

import pytest
import torch

import align
from align.integrations.plain_tensors import PenaltyInputError

LOGITS = torch.tensor([[[0.1, -0.4, 0.3], [1.0, 0.2, -1.0]], [[0.0, 0.5, -0.5], [0.7, -0.2, 0.1]]])
FULL, REFERENCE = torch.log_softmax(LOGITS, -1), torch.log_softmax(-LOGITS, -1)
LOGP, REF, MASK = FULL[..., 0], REFERENCE[..., 0], torch.ones(2, 2)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("ref_logp", lambda x: None, "ref_logp must be a torch tensor, not None"),
        ("logp", lambda x: None, "logp must be a torch tensor, not None"),
        ("logp", lambda x: x.to(torch.float8_e4m3fn), "logp is torch.float8_e4m3fn, which holds no log-probs: give float32"),
        ("ref_logp", lambda x: x.to(torch.float8_e5m2), "ref_logp is torch.float8_e5m2"),
        ("logp", lambda x: x.to_sparse(), "logp is sparse: give a dense tensor"),
        ("ref_logp", lambda x: x.to_sparse_csr(), "ref_logp is sparse"),
        ("mask", lambda x: x.to_sparse(), "mask is sparse"),
        ("logp", lambda x: torch.nested.nested_tensor([x[0], x[1, :1]]), "logp is nested"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_no_tensor_of_log_probs_is_named(name, change, says):
    given = {"logp": LOGP, "ref_logp": REF, "mask": MASK}
    given[name] = change(given[name])
    with pytest.raises(PenaltyInputError) as refused:
        align.penalty(**given)
    assert says in str(refused.value) and len(str(refused.value).splitlines()) == 1


def blocked(x: torch.Tensor) -> torch.Tensor:
    return x.masked_fill(torch.tensor([[[False], [True]], [[False], [False]]]), -torch.inf)


@pytest.mark.parametrize("estimator", ["exact", "top_k"])
@pytest.mark.parametrize("name", ["logp", "ref_logp"])
def test_a_row_without_a_possible_token_is_refused_unless_masked(estimator, name):
    given = {"logp": FULL, "ref_logp": REFERENCE}
    given[name] = blocked(given[name])
    with pytest.raises(PenaltyInputError, match=rf"^{name} is -inf at the whole vocabulary of 1 tokens that count"):
        align.penalty(**given, mask=MASK, estimator=estimator)
    leaf = given.pop("logp").clone().requires_grad_()
    found = align.penalty(leaf, **given, mask=torch.tensor([[1, 0], [1, 1]]), estimator=estimator)
    expected = (FULL.exp() * (FULL - REFERENCE)).sum(-1) if estimator == "exact" else found.value
    assert found.value[0, 1] == 0
    torch.testing.assert_close(found.value[MASK.bool() & torch.tensor([[1, 0], [1, 1]]).bool()], expected[[0, 1, 1], [0, 0, 1]])
    assert torch.autograd.grad(found.loss.sum(), leaf)[0].isfinite().all()


def test_one_impossible_token_is_a_token_never_drawn():
    leaf = FULL.clone()
    leaf[0, 0, 1] = -torch.inf
    assert align.penalty(leaf, REFERENCE, MASK, estimator="exact").value.isfinite().all()
