"""`align.penalty` on plain tensors: the learner's own numbers, the exact gradient, and nothing of what the mask leaves out."""

import math

import pytest
import torch
from helpers.enumeration import NAME, gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from unit.regularizer_oracles.cells import (
    DIVERGENCES,
    ESTIMATORS,
    SINGLE,
    TREES,
    UNBIASED,
    assert_close,
    composed,
    context,
    objective,
    setting,
)

import align
from align.errors import RecipeError
from align.integrations.plain_tensors import PenaltyInputError
from align.regularizers import Penalty, Regularizer

SOME = ("reverse_kl", "jensen_shannon", "tsallis_0.3", "users_own", "renyi_2")
CELLS = [cell for cell in UNBIASED if cell[0] in SOME]
LOSSES = [cell for cell in CELLS if cell[2] == "loss"]
CREDITS = ("local", "summed", "sequence")


def columns(cell, problem) -> tuple[dict[str, Tensor], Tensor]:
    """The enumeration as plain tensors, packed [T], and the leaf of the policy."""
    logits, old, ref = setting(problem, cell[4])
    leaf = logits.clone().requires_grad_()
    seq_ids, _, prefix, tokens = torch.tensor(problem.steps()).unbind(1)
    full = ESTIMATORS[cell[1]].full_vocabulary
    given = {
        "logp": leaf[prefix] if full else problem.token_logp(leaf),
        "ref_logp": ref[prefix] if full else problem.token_logp(ref),
        "seq_ids": seq_ids,
        "old_logp": None if old is None else problem.token_logp(old),
    }
    return given | ({"tokens": tokens} if full and cell[3] == "summed" else {}), leaf


def form(cell):
    return align.regularizer(DIVERGENCES[cell[0]][0], coefficient=1.0, estimator=ESTIMATORS[cell[1]], placement=cell[2], credit=cell[3])


def test_the_cells_are_there():
    assert {cell[0] for cell in CELLS} == set(SOME)


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_it_is_what_the_learner_computes(cell):
    for problem in TREES + SINGLE:
        given, leaf = columns(cell, problem)
        found = align.penalty(**given, regularizer=form(cell))
        ctx, of_learner = context(cell, problem)
        wanted = composed(cell).penalty(ctx, NAME)
        for mine, theirs in ((found.value, wanted.value), (found.loss, wanted.loss), (found.reward, wanted.reward)):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(mine.detach(), theirs.detach(), rtol=0, atol=1e-12)
        if found.loss is not None:
            mine, theirs = (
                torch.autograd.grad((ctx.batch.loss_weights * p.loss).sum(), x)[0] for p, x in ((found, leaf), (wanted, of_learner))
            )
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", LOSSES, ids="-".join)
def test_its_expected_gradient_is_that_of_the_divergence(cell):
    for problem in TREES + SINGLE:
        logits, old, ref = setting(problem, cell[4])
        given, leaf = columns(cell, problem)
        weights = problem.answer_logp(logits if old is None else old).exp()[given["seq_ids"]]
        (found,) = torch.autograd.grad((weights * align.penalty(**given, regularizer=form(cell)).loss).sum(), leaf)
        assert_close(found, gradient(lambda x, p=problem, old=old, ref=ref: objective(cell, p, x, old, ref), logits))


def drawn(rows: int, columns: int, seed: int, vocabulary: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """log pi, log ref, log old, float64."""
    draw = torch.Generator().manual_seed(seed)
    shape = (rows, columns, 7 if vocabulary is None else vocabulary)
    pi, ref, old = (torch.log_softmax(torch.randn(shape, generator=draw, dtype=torch.float64), -1) for _ in range(3))
    return (pi, ref, old) if vocabulary else (pi[..., 0], ref[..., 0], old[..., 0])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_packed_and_padded_are_the_same(data):
    rows, width = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    mask = torch.tensor(data.draw(st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=rows, max_size=rows)))
    credit, off_policy = data.draw(st.sampled_from(CREDITS)), data.draw(st.booleans())
    logp, ref, old = drawn(rows, width, data.draw(st.integers(0, 99)))
    # Tokens of an answer keep their order; those of different answers may alternate.
    order = torch.arange(rows * width).view(rows, width).T.flatten() if data.draw(st.booleans()) else torch.arange(rows * width)
    order = order[mask.flatten()[order]]
    seq_ids = torch.arange(rows).repeat_interleave(width)[order] * 3 - 1

    padded_logp, packed_logp = logp.clone().requires_grad_(), logp.flatten()[order].requires_grad_()
    keys = {"credit": credit, "divergence": "jensen_shannon"}
    garbage = [x.masked_fill(~mask, data.draw(st.sampled_from([math.nan, math.inf, -math.inf, 7.0]))) for x in (ref, old)]
    padded = align.penalty(padded_logp, garbage[0], mask, old_logp=garbage[1] if off_policy else None, **keys)
    packed = align.penalty(
        packed_logp, ref.flatten()[order], seq_ids=seq_ids, old_logp=old.flatten()[order] if off_policy else None, **keys
    )
    for mine, theirs in ((padded.loss, packed.loss), (padded.value, packed.value)):
        assert mine.shape == mask.shape and not mine[~mask].any()
        torch.testing.assert_close(mine.flatten()[order], theirs, rtol=0, atol=1e-12)
    weights = torch.rand(rows, width, dtype=torch.float64)
    (weights * padded.loss).sum().backward()
    (weights.flatten()[order] * packed.loss).sum().backward()
    assert not padded_logp.grad[~mask].any()
    torch.testing.assert_close(padded_logp.grad.flatten()[order], packed_logp.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("credit", ["local", "summed"])
def test_packed_and_padded_logits_are_the_same(credit):
    logp, ref, old = drawn(3, 5, 1, vocabulary=6)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 0, 1], [1, 1, 1, 1, 1]])
    tokens, keep = torch.arange(15).view(3, 5) % 6, mask.bool()
    logp[~keep], ref[~keep] = math.nan, math.inf
    logp.requires_grad_()
    keys = {"estimator": "exact", "credit": credit, "divergence": "forward_kl"}
    more = {"tokens": tokens, "old_logp": old[..., 0]} if credit == "summed" else {}
    # Log-probs that an engine shifted by a constant are logits of the same policy.
    padded = align.penalty(logp + 3.0, ref, mask, **keys, **more)
    packed = align.penalty(logp[keep], ref[keep], seq_ids=keep.nonzero()[:, 0], **keys, **{name: x[keep] for name, x in more.items()})
    torch.testing.assert_close(padded.loss[keep], packed.loss, rtol=0, atol=1e-12)
    padded.loss.sum().backward()
    assert padded.value.shape == mask.shape and not padded.value[~keep].any()
    assert logp.grad[keep].abs().min() > 0 and not logp.grad[~keep].any()


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("credit", CREDITS)
def test_what_the_mask_leaves_out_reaches_nothing(garbage: float, credit: str):
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = []
    for value in (0.0, garbage):
        logp, ref, old = (x.masked_fill(~mask, value) for x in drawn(2, 3, 5))
        weights = torch.tensor([[0.5, 2.0, value], [1.0, value, value]])
        logp.requires_grad_()
        penalty = align.penalty(logp, ref, mask, credit=credit, old_logp=old, weights=weights)
        penalty.loss.sum().backward()
        found.append((penalty.loss.detach(), penalty.value, logp.grad))
    for clean, dirty in zip(*found, strict=True):
        assert torch.equal(clean, dirty) and dirty.isfinite().all() and dirty.any()


def test_a_mask_of_nothing_gives_zeros_and_a_gradient_of_zeros():
    for keys, size in (({"credit": "sequence"}, ()), ({"estimator": "exact"}, (5,))):
        logp = torch.full((2, 3, *size), math.nan, requires_grad=True)
        found = align.penalty(logp, logp.detach(), torch.zeros(2, 3), **keys)
        found.loss.sum().backward()
        assert torch.equal(found.value, torch.zeros(2, 3)) and torch.equal(logp.grad, torch.zeros_like(logp))


def test_half_precision_is_computed_in_float32():
    logp, ref, _ = (x.to(torch.bfloat16) for x in drawn(2, 3, 2))
    found, exact = align.penalty(logp, ref), align.penalty(logp.double(), ref.double())
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.value, exact.value.float(), rtol=1e-5, atol=1e-7)


def test_the_rest_of_the_axes_come_from_a_regularizer():
    logp, ref, old = drawn(2, 3, 3)
    capped = align.penalty(logp, ref, old_logp=old - 1.0, regularizer=align.regularizer(coefficient=1.0, ratio_cap=1.5))
    plain = align.penalty(logp, ref, old_logp=old - 1.0)
    beyond = capped.shares["capped"]
    assert beyond.any() and (capped.value[beyond] < plain.value[beyond]).all() and torch.equal(capped.value[~beyond], plain.value[~beyond])
    clamped = align.penalty(logp - 30, ref)
    assert clamped.shares["clamped"].all() and clamped.shares["clamped"].dtype == torch.bool
    sampler = align.regularizer(coefficient=1.0, ratio_to="sampler")
    assert torch.equal(align.penalty(logp, ref, old_logp=old, regularizer=sampler).value, align.penalty(logp, ref, old_logp=old).value)


def test_the_coefficient_is_not_in_it():
    logp, ref, _ = drawn(2, 3, 3)
    weak, strong = (align.penalty(logp, ref, regularizer=align.regularizer(coefficient=c)) for c in (0.01, 3.0))
    assert torch.equal(weak.loss, strong.loss)


def test_weights_multiply():
    logp, ref, _ = drawn(2, 3, 3)
    weights = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.5, 1.0]])
    weighed = align.penalty(logp, ref, weights=weights, regularizer=align.regularizer(coefficient=1.0, weighting="difficulty"))
    torch.testing.assert_close(weighed.value, weights * align.penalty(logp, ref).value)


A, B = torch.full((2, 3), -1.0), torch.full((2, 3), -2.0)
NAN = torch.tensor([[-1.0, math.nan, -1.0], [-1.0, -1.0, -1.0]])
REFUSED = {
    "shapes": ((A, B[:, :2]), {}, r"logp \[2, 3\] and ref_logp \[2, 2\] must be of one shape"),
    "list": (([-1.0], B), {}, "logp must be a torch tensor, not a list"),
    "integers": ((A.long(), B.long()), {}, "logp must be floating-point, not torch.int64"),
    "NaN": ((NAN, B), {}, "logp is nan at 1 of the numbers that count"),
    "NaN of the reference": ((A, NAN), {}, "ref_logp is nan"),
    "NaN of the old": ((A, B), {"old_logp": NAN}, "old_logp is nan"),
    "NaN of the weights": ((A, B), {"weights": NAN}, "weights is nan"),
    "impossible token": ((A, B - math.inf), {}, "ref_logp is -inf at 6"),
    "NaN logits": ((NAN, B), {"estimator": "exact"}, "logp is nan"),
    "logits": ((A + 4, B), {}, "logp holds log-probs, which are at most 0, and one is 3: give log_softmax"),
    "negative weights": ((A, B), {"weights": A}, "weights must be >= 0, and one is -1"),
    "mask": ((A, B, torch.ones(3)), {}, r"mask must be a tensor \[2, 3\], as the tokens are, not \[3\]"),
    "mask that weighs": ((A, B, A), {}, "mask must hold 0 and 1 alone: how much a token counts is weights="),
    "old of another shape": ((A, B), {"old_logp": A[0]}, r"old_logp must be \[2, 3\], one for each token, not \[3\]"),
    "old of a vocabulary": ((A, B), {"estimator": "exact", "old_logp": A}, r"old_logp must be \[2\]"),
    "four axes": ((A[None, None], B[None, None]), {}, r"logp must be \[B, T\] or \[T\], of the sampled tokens, not \[1, 1, 2, 3\]"),
    "one axis of a vocabulary": ((A[0], B[0]), {"estimator": "exact"}, r"logp must be \[B, T, V\] or \[T, V\], .*, not \[3\]"),
    "log-probs where logits are read": (
        (A, B, torch.ones(2, 3)),
        {"estimator": "exact"},
        r'logp must be \[B, T, V\] .*, not \[2, 3\]: the log-probs of the sampled tokens alone are for estimator="sampled"',
    ),
    "logits where log-probs are read": (
        (A[..., None].expand(2, 3, 5), B[..., None].expand(2, 3, 5), torch.ones(2, 3)),
        {},
        r'logp must be \[B, T\] .*, not \[2, 3, 5\]: logits or log-probs of the whole vocabulary are for estimator="exact"',
    ),
    "packed logits where log-probs are read": ((A, B, torch.ones(2)), {}, r'not \[2, 3\]: logits .* are for estimator="exact"'),
    "packed without ids": ((A[0], B[0]), {"credit": "summed"}, r"packed tensors \[T\] need seq_ids"),
    "padded with ids": ((A, B), {"seq_ids": torch.zeros(2, 3, dtype=torch.int64)}, r"seq_ids belongs to packed tensors \[T\]"),
    "ids of another shape": ((A[0], B[0]), {"seq_ids": torch.zeros(2, dtype=torch.int64)}, r"seq_ids must be an integer tensor \[3\]"),
    "ids that are no integers": ((A[0], B[0]), {"seq_ids": A[0]}, "seq_ids must be an integer tensor"),
    "no tokens": ((A[None], B[None]), {"estimator": "exact", "credit": "summed"}, "needs the sampled tokens: give tokens="),
    "tokens for nothing": ((A, B), {"tokens": A.long()}, "looks at no tokens: leave out tokens="),
    "tokens that are floats": ((A, B), {"estimator": "exact", "credit": "summed", "tokens": A[:, 0]}, "tokens must be integers"),
    "tokens outside": (
        (A, B),
        {"estimator": "exact", "credit": "summed", "tokens": torch.tensor([0, 3]), "seq_ids": torch.tensor([0, 0])},
        "tokens must be from 0 to 2",
    ),
    "a weighting of a batch": (
        (A, B),
        {"regularizer": align.regularizer(coefficient=1.0, weighting="difficulty")},
        "weighting difficulty.* reads a whole batch: compute its weights and give weights=",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_named(case: str):
    tensors, keys, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        align.penalty(*tensors, **keys)
    assert isinstance(caught.value, PenaltyInputError) and isinstance(caught.value, align.UserError)


class NoDivergence(Regularizer):
    coefficient = None

    def penalty(self, ctx, name):
        return Penalty(value=ctx.logp.detach(), loss=ctx.logp)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"estimator": "k3"}, "k3 in the loss descends the forward KL.*or set allow_biased: true"),
        ({"divergence": "renyi"}, "Renyi is a function of an expectation at each state"),
        ({"estimator": "exact", "credit": "sequence"}, "cannot be enumerated"),
        ({"credit": "summd"}, "credit must be one of local, summed, sequence"),
        ({"regularizer": align.regularizer(coefficient=1.0), "credit": "summed"}, "credit: changes nothing beside regularizer="),
        ({"regularizer": align.regularizer(coefficient=1.0, placement="link")}, "link is inside a preference loss"),
        ({"regularizer": NoDivergence()}, "NoDivergence is none that align.regularizer composed"),
    ],
)
def test_what_a_recipe_refuses_is_refused(keys, message):
    with pytest.raises(RecipeError, match=message):
        align.penalty(A, B, **keys)


def test_a_published_form_runs_when_it_is_allowed():
    logp, ref = A.clone().requires_grad_(), B
    align.penalty(logp, ref, regularizer=align.regularizer(coefficient=1.0, estimator="k3", allow_biased=True)).loss.sum().backward()
    torch.testing.assert_close(logp.grad, -torch.expm1(ref - A))


def test_a_file_that_was_edited_is_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for scale in (1, 2):
        (tmp_path / "mine.py").write_text(f"class Mine:\n    def f(self, log_u):\n        return {scale} * (log_u / 2).expm1() ** 2\n")
        found = align.penalty(A, B, divergence="./mine.py:Mine").value
        torch.testing.assert_close(found, scale * align.penalty(A, B, divergence="hellinger").value)
