"""Shapes, masks, shards, scalings and extremes, each of which has been somebody's bug."""

import functools

import pytest
import torch
from kernels.interpreted.passes import error, passes, small_tiles
from kernels.room import DIVERGENCES, defined, logits, oracle

from align_kernels import triton_rows
from align_kernels.codegen import fused
from align_kernels.row import merge

KL, JSD = DIVERGENCES["reverse_kl"], DIVERGENCES["jensen_shannon"]
W = torch.tensor([[1.0, -2.0], [0.3, 1.0], [2.0, 1.0]])


@pytest.fixture(autouse=True)
def _tiles(monkeypatch):
    small_tiles(monkeypatch)


def assert_exact(z, u, labels, scale=1.0, cap=None, weights=W):
    stats, grad = passes(z, u, labels, fused(KL), weights, scale, cap)
    exact, exact_grad = oracle(z, u, labels, functools.partial(defined, KL), weights, scale, cap)
    for name, tolerance in (("logp", 1e-6), ("entropy", 1e-6), ("div", 5e-6)):
        assert error(stats[name], exact[name]) < tolerance
    assert error(grad, exact_grad) < 2e-6
    return grad


@pytest.mark.parametrize("v", [1, 5, 63, 64, 65, 128, 139])
def test_vocabularies_around_the_tile(v):
    z, u, labels = logits(2, v, 0.5)
    labels[0] = v - 1
    if v == 1:
        stats, grad = passes(z, u, labels, fused(KL), W)
        assert not torch.stack(list(stats.values())).any() and not grad.any()
        return
    assert_exact(z, u, labels)


@pytest.mark.parametrize("apart", [False, True])
def test_rows_with_strides_of_their_own_and_into_a_part_of_a_buffer(apart):
    z, u, labels = logits(2, 256, 0.5)
    z, u, labels = z[:, 3:104], u[:, 3:104], labels % 101
    u = u.contiguous() if apart else u
    buffer = torch.full((2, 150), 7.0)
    stats, grad = passes(z, u, labels, fused(KL), W, out=buffer[:, 20:121])
    exact, exact_grad = oracle(z, u, labels, functools.partial(defined, KL), W)
    assert error(grad, exact_grad) < 2e-6 and error(stats["div"], exact["div"]) < 5e-6
    assert (buffer[:, :20] == 7).all() and (buffer[:, 121:] == 7).all()


def test_no_tokens():
    z, u, labels = logits(0, 10, 0.5)
    stats, grad = passes(z, u, labels, fused(KL), W[:, :0])
    assert grad.shape == (0, 10) and all(s.shape == (0,) for s in stats.values())


@pytest.mark.parametrize("scale", [1 / 0.3, 1.0, 0.5])
@pytest.mark.parametrize("cap", [None, 5.0])
def test_temperature_and_soft_cap(scale, cap):
    z, u, labels = logits(2, 130, 0.5)
    # The number the kernel gets is a float32.
    assert_exact(z, u, labels, scale=torch.tensor(scale).item(), cap=cap)


def test_a_token_without_weight_has_no_gradient():
    z, u, labels = logits(2, 130, 0.5)
    assert not assert_exact(z, u, labels, weights=W * torch.tensor([1.0, 0.0]))[1].any()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_policy_equal_to_the_reference(name):
    z, _, labels = logits(1, 70, 0.0)
    stats, grad = passes(z, z.clone(), labels, fused(DIVERGENCES[name]), torch.tensor([[0.0], [0.0], [1.0]]))
    assert not stats["div"].any() and not grad.any(), "exactly"


def test_all_logits_equal():
    z = torch.full((2, 130), 3.0)
    stats, _ = passes(z, z - 5, torch.tensor([0, 129]), fused(KL), W)
    assert error(stats["entropy"], torch.tensor([130.0] * 2).double().log()) < 1e-7
    assert not stats["div"].any()


def test_an_offset_between_the_heads_costs_no_digits():
    z, u, labels = logits(2, 130, 0.05)
    z, u = (t.mul(1024).round().div(1024) for t in (z, u))  # so that + 64 is exact
    stats, grad = passes(z, u + 64, labels, fused(KL), W)
    exact, exact_grad = oracle(z, u, labels, functools.partial(defined, KL), W)
    assert error(stats["div"], exact["div"]) < 5e-5
    assert error(grad, exact_grad) < 1e-5


def test_outcomes_impossible_under_both():
    z, u, labels = logits(2, 130, 0.5)
    allowed = torch.arange(130) % 3 != 0
    masked = [t.masked_fill(~allowed, -torch.inf) for t in (z, u)]
    place = torch.cumsum(allowed, 0) - 1
    labels = torch.tensor([1, 128])
    for divergence in (KL, JSD, DIVERGENCES["neyman"], DIVERGENCES["users"]):
        stats, grad = passes(*masked, labels, fused(divergence), W)
        exact, exact_grad = oracle(z[:, allowed], u[:, allowed], place[labels], functools.partial(defined, divergence), W)
        assert all(error(stats[k], exact[k]) < 5e-6 for k in exact)
        assert error(grad[:, allowed], exact_grad) < 2e-6
        assert not grad[:, ~allowed].any()


def test_outcomes_impossible_under_one():
    z, u, labels = logits(2, 130, 0.5)
    labels = torch.tensor([1, 128])
    forbidden = torch.arange(130) % 3 == 0
    z[:, forbidden] = -torch.inf
    p, q = torch.softmax(z.double(), -1), torch.softmax(u.double(), -1)
    m = (p + q) / 2
    kl = torch.special.xlogy(p, p / q).sum(-1)
    jsd = (torch.special.xlogy(p, p / m) + torch.special.xlogy(q, q / m)).sum(-1)
    for divergence, exact in ((KL, kl), (JSD, jsd)):
        stats, grad = passes(z, u, labels, fused(divergence), W)
        assert error(stats["div"], exact) < 5e-6
        assert torch.isfinite(grad).all()
    # Forward KL is infinite: as large as float32 can say, and its pull, ref on each, is finite.
    stats, grad = passes(z, u, labels, fused(DIVERGENCES["forward_kl"]), torch.tensor([[0.0], [0.0], [1.0]]).expand(3, 2))
    assert (stats["div"] > 1e34).all() and torch.isfinite(stats["div"]).all()
    assert error(grad, p - q) < 2e-6


def test_every_divergence_is_finite_where_one_side_has_nothing():
    z, u, _ = logits(2, 70, 0.5)
    z[0, ::5] = u[1, ::5] = -torch.inf
    for name, divergence in DIVERGENCES.items():
        stats, grad = passes(z, u, torch.tensor([1, 2]), fused(divergence), W)
        assert torch.isfinite(stats["div"]).all() and torch.isfinite(grad).all(), name


def test_shards_of_the_vocabulary_make_the_whole():
    z, u, _ = logits(4, 139, 0.5)
    labels = torch.tensor([0, 63, 64, 138])
    weights = torch.cat([W, -W], 1)
    fn, bounds = fused(KL), ((0, 64), (64, 65), (65, 139))
    parts = [triton_rows.row_stats(z[:, i:j], u[:, i:j], labels, scale=1.0, ref_scale=1.0, first=i) for i, j in bounds]
    assert torch.isneginf(parts[0].z_y).tolist() == [False, False, True, True]
    stats = merge(merge(parts[0], parts[1]), parts[2])
    sums = [triton_rows.row_sum(z[:, i:j], u[:, i:j], stats.lse_p, stats.lse_q, scale=1.0, ref_scale=1.0, fn=fn) for i, j in bounds]
    sums = tuple(sum(s) for s in zip(*sums, strict=True))
    grads = [passes(z[:, i:j], u[:, i:j], labels, fn, weights, first=i, merged=stats, sums=sums)[1] for i, j in bounds]
    exact, exact_grad = oracle(z, u, labels, functools.partial(defined, KL), weights)
    assert error(stats.logp, exact["logp"]) < 1e-6
    assert error(stats.entropy, exact["entropy"]) < 1e-6
    assert error(sums[0], exact["div"]) < 5e-6
    assert error(torch.cat(grads, 1), exact_grad) < 2e-6


def test_a_shard_in_which_nothing_is_possible():
    z, u, labels = logits(2, 100, 0.5)
    z[:, 50:] = u[:, 50:] = -torch.inf
    labels %= 50
    halves = [triton_rows.row_stats(z[:, i : i + 50], u[:, i : i + 50], labels, scale=1.0, ref_scale=1.0, first=i) for i in (0, 50)]
    for stats in (merge(*halves), merge(*halves[::-1])):
        exact, _ = oracle(z[:, :50], u[:, :50], labels, functools.partial(defined, KL), W)
        assert error(stats.logp, exact["logp"]) < 1e-6
        assert error(stats.entropy, exact["entropy"]) < 1e-6


@pytest.mark.parametrize("kept", range(3))
def test_terms_that_are_not_asked_for(kept):
    z, u, labels = logits(2, 130, 0.5)
    w = torch.zeros(3, 2)
    w[kept] = W[0]
    stats = triton_rows.row_stats(z, u if kept == 2 else None, labels, scale=1.0)
    fn = fused(KL)
    S = triton_rows.row_sum(z, u, stats.lse_p, stats.lse_q, scale=1.0, ref_scale=1.0, fn=fn)[1] if kept == 2 else None
    given = [w[i] if i == kept else None for i in range(3)]
    lse_q = stats.lse_q if kept == 2 else None
    grad = triton_rows.row_grad(
        z,
        u if kept == 2 else None,
        stats.lse_p,
        lse_q,
        labels if kept == 0 else None,
        stats.entropy if kept == 1 else None,
        S,
        *given,
        scale=1.0,
        fn=fn if kept == 2 else None,
    )
    _, exact = oracle(z, u, labels, functools.partial(defined, KL), w)
    assert error(grad, exact) < 2e-6
    twice = triton_rows.row_grad(
        z,
        u if kept == 2 else None,
        stats.lse_p,
        lse_q,
        labels if kept == 0 else None,
        stats.entropy if kept == 1 else None,
        S,
        *given,
        scale=1.0,
        fn=fn if kept == 2 else None,
        out=grad.clone(),
        accumulate=True,
    )
    assert torch.equal(twice, 2 * grad)


def test_rows_that_are_not_contiguous_are_refused():
    z, u, labels = logits(2, 130, 0.5)
    with pytest.raises(ValueError, match="contiguous rows"):
        triton_rows.row_stats(z.T.contiguous().T, u, labels, scale=1.0)
