"""The one-pass kernel of the alpha family: the two-pass numbers in one reading, and a second reading where one would not do."""

import functools

import pytest
import torch
import triton
import triton.language as tl
from kernels.interpreted.passes import row_errors, small_tiles
from kernels.room import ALPHA_KINDS, DIVERGENCES, ONE_OF_EACH, defined, logits, oracle

from align_kernels import token_stats, triton_rows
from align_kernels.codegen import fused
from align_kernels.codegen.fused import TritonForms
from align_kernels.triton_rows import selfcheck

FAMILY = sorted(name for name, divergence in DIVERGENCES.items() if fused(divergence).power is not None)
KINDS = sorted(ONE_OF_EACH[kind] for kind in ALPHA_KINDS)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_tiles(monkeypatch)


@triton.jit
def nothing(a, b, d, p, q, params):
    """Terms that show whether the row was read again."""
    return tl.zeros_like(d) - 1.0, tl.zeros_like(d)


def found(name, z, u, labels, again=True, **keywords):
    fn = fused(DIVERGENCES[name])
    if not again:
        own = fn.triton(torch.float64 if z.dtype == torch.float64 else torch.float32)
        fn = type("OnlyOnce", (), {"params": (), "power": fn.power, "triton": lambda _, dtype: TritonForms(nothing, own.term, own.pull)})()
    stats, total, S = triton_rows.one_pass(z, u, labels, scale=1.0, ref_scale=1.0, fn=fn, **keywords)
    return stats, total, S


def exact(name, z, u, labels):
    """The sum before any transform and S, float64."""
    fn = fused(DIVERGENCES[name])
    a, b = torch.log_softmax(z.double(), -1), torch.log_softmax(u.double(), -1)
    d = a - b
    terms = torch.where(d < 0, b.exp() * fn.forms.bregman(d), a.exp() * fn.forms.khat(d))
    return terms.sum(-1), (a.exp() * fn.forms.grad_weight(d)).sum(-1)


def test_who_belongs_to_the_family():
    assert FAMILY == ["alpha", "cressie_read", "forward_kl", "hellinger", "neyman", "pearson", "renyi", "reverse_kl", "tsallis", "users"]
    assert fused(DIVERGENCES["users"]).power == 1.5
    assert fused(lambda log_u: 3 * log_u * log_u.exp() + log_u.exp()).power == 1.0
    assert fused(lambda log_u: -log_u).power == 0.0
    # The same slopes on one side as reverse KL's, but not its curve.
    assert fused(lambda log_u: torch.where(log_u.abs() < 1.5, log_u * log_u.exp(), log_u.exp() ** 1.2)).power is None


@pytest.mark.parametrize("end", [-7.0, 7.0, 20.0])
def test_a_log_ratio_that_is_clipped_is_none_of_the_family(end):
    """Reverse KL up to there and its tangent beyond: as one of the family it would have a wrong slope wherever it is not."""

    def tangent_from_there(log_u):
        x = log_u.clamp_max(end) if end > 0 else log_u.clamp_min(end)
        return torch.exp(x) * x + (1 + end) * (torch.exp(log_u) - torch.exp(x))

    assert fused(tangent_from_there).power is None


@pytest.mark.parametrize("name", FAMILY)
def test_one_reading_gives_every_statistic(name):
    z, u, labels = logits(2, 139, torch.tensor([[1e-2], [0.5]]))
    labels[:] = z.argmax(-1)
    stats, total, S = found(name, z, u, labels, again=False)
    for one, two in zip(stats, triton_rows.row_stats(z, u, labels, scale=1.0, ref_scale=1.0), strict=True):
        torch.testing.assert_close(one, two, rtol=2e-6, atol=2e-6)
    expected, S_expected = exact(name, z, u, labels)
    assert row_errors(total, expected).max() < 5e-6
    assert ((S - S_expected).abs() < 5e-6 * expected * max(1, abs(fused(DIVERGENCES[name]).power))).all()


@pytest.mark.parametrize("name", KINDS)
def test_float64_has_its_digits(name):
    z, u, labels = logits(1, 77, 0.3, dtype=torch.float64)
    _, total, _ = found(name, z, u, z.argmax(-1), again=False)
    assert row_errors(total, exact(name, z, u, labels)[0]).max() < 1e-12


@pytest.mark.parametrize("name", KINDS)
def test_a_row_whose_label_is_no_centre_is_read_again(name):
    z, u, labels = logits(1, 139, 1e-2)
    labels[:] = 7
    z[:, 7], u[:, 7] = -12.0, -9.0
    expected, S_expected = exact(name, z, u, labels)
    assert (found(name, z, u, labels, again=False)[1] < 0).all(), "one reading would have done, so this test shows nothing"
    _, total, S = found(name, z, u, labels)
    assert row_errors(total, expected).max() < 1e-5
    assert (S - S_expected).abs().max() < 1e-5 * expected.max()


@pytest.mark.parametrize("name", KINDS)
def test_a_label_whose_log_ratio_is_large_beside_the_divergence_is_none(name):
    """L is small enough, but the gap would cancel."""
    z, u, labels = logits(1, 139, 1e-3)
    labels[:] = 7
    z[:, 7], u[:, 7] = -12.0, -12.5
    assert (found(name, z, u, labels, again=False)[1] < 0).all(), "one reading would have done, so this test shows nothing"
    assert row_errors(found(name, z, u, labels)[1], exact(name, z, u, labels)[0]).max() < 1e-5


def test_rows_with_strides_of_their_own():
    z, u, labels = logits(2, 256, 0.3)
    z, u, labels = z[:, 3:104], u[:, 3:104].contiguous(), labels % 101
    assert row_errors(found("reverse_kl", z, u, labels)[1], exact("reverse_kl", z, u, labels)[0]).max() < 1e-5


@pytest.mark.parametrize("name", KINDS)
def test_an_offset_between_the_heads_is_the_centres(name):
    z, u, labels = logits(2, 128, 0.1)
    labels[:] = z.argmax(-1)
    z, u = z + 100, u + 90
    assert row_errors(found(name, z, u, labels, again=False)[1], exact(name, z, u, labels)[0]).max() < 1e-5


@pytest.mark.parametrize("name", KINDS)
def test_without_a_label_there_is_no_centre(name):
    """Outside the shard, or impossible under both."""
    z, u, _ = logits(2, 139, 0.3)
    labels = torch.tensor([500, 11])
    expected = torch.cat([exact(name, z[:1], u[:1], None)[0], exact_without(name, z[1:], u[1:], 11)])
    z[1, 11] = u[1, 11] = -torch.inf
    stats, total, _ = found(name, z, u, labels)
    assert torch.isneginf(stats.z_y).all() and torch.isneginf(stats.u_y).all()
    assert row_errors(total, expected).max() < 1e-5


def exact_without(name, z, u, token):
    others = [v for v in range(z.shape[1]) if v != token]
    return exact(name, z[:, others], u[:, others], None)[0]


@pytest.mark.parametrize("name", KINDS)
def test_policy_and_reference_that_agree_are_exactly_0_apart(name):
    z, _, labels = logits(1, 139, 0.0)
    _, total, S = found(name, z, z.clone(), labels, again=False)
    assert (total == 0).all() and (S == 0).all()


@pytest.mark.parametrize("name", KINDS)
def test_what_one_side_forbids_is_as_in_two_passes(name):
    z, u, labels = logits(2, 139, 0.3)
    labels[:] = 100
    z[0, :30] = -torch.inf
    u[1, 40:60] = -torch.inf
    fn = fused(DIVERGENCES[name])
    stats, total, S = found(name, z, u, labels)
    two, S_two = triton_rows.row_sum(z, u, stats.lse_p, stats.lse_q, scale=1.0, ref_scale=1.0, fn=fn)
    torch.testing.assert_close(total, two, rtol=1e-5, atol=0)
    finite = two < 1e20
    torch.testing.assert_close(S[finite], S_two[finite], rtol=1e-5, atol=1e-6)


def test_the_head_takes_it_and_its_gradient_is_that_of_the_definition(monkeypatch):
    # What the check at a first use holds is test_selfcheck's.
    monkeypatch.setattr(selfcheck, "POINTS", 1)
    for name in KINDS:
        z, u, labels = logits(2, 139, 0.2)
        w = torch.tensor([[0.3], [-0.2], [1.1]]).expand(3, 2)
        z = z.requires_grad_()
        stats = token_stats(z, labels, u, DIVERGENCES[name], temperature=0.8, backend="triton")
        (w[0] * stats.logp + w[1] * stats.entropy + w[2] * stats.div).sum().backward()
        expected, grad = oracle(z, u, labels, functools.partial(defined, DIVERGENCES[name]), w, scale=1 / 0.8)
        assert row_errors(stats.div.detach(), expected["div"]).max() < 1e-5, name
        assert row_errors(z.grad, grad).max() < 1e-5, name
