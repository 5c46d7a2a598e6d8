"""Tensor parallelism over two gloo processes: the halves of a vocabulary together are the whole, value and gradient."""

import itertools

import torch
import torch.distributed as dist
from kernels.heads import H, T, V, make_head, normal
from torch.multiprocessing.spawn import spawn

from align.divergences.jensen_shannon import JensenShannon
from align.divergences.renyi import Renyi
from align.divergences.reverse_kl import ReverseKl
from align.estimators.top_k import TopK
from align_kernels import Compared, Head, linear_stats, merge, torch_rows

LABELS = torch.where(torch.arange(T) % 6 == 0, -100, torch.arange(T) * 3 % 33)
SPLIT = 25


def setting(part: slice):
    """The head's tokens of `part`; the last four are impossible, and so is every token of the first block of the second half."""
    bias = torch.zeros(V, dtype=torch.float64)
    bias[-4:] = bias[SPLIT : SPLIT + 2] = -torch.inf
    leaves = [normal(T, H, seed=0).requires_grad_(), make_head().weight[part].clone().requires_grad_(), bias[part].clone().requires_grad_()]
    reference = normal(T, H, seed=2), Head(make_head(seed=3).weight[part], bias[part])
    compared = {name: Compared(d, *reference) for name, d in (("kl", ReverseKl()), ("js", JensenShannon()), ("renyi", Renyi(q=0.5)))}
    return leaves, compared


def measured(part: slice, group=None) -> list[torch.Tensor]:
    """All outputs and gradients; those of weight and bias are of this part."""
    found = []
    for elements in (1 << 24, 4 * 4 * 2):
        leaves, compared = setting(part)
        stats = linear_stats(
            leaves[0], Head(*leaves[1:]), LABELS, temperature=0.7, compared=compared, elements=elements, group=group, first=part.start
        )
        outputs = [stats.logp, stats.entropy, *stats.div.values()]
        sum((normal(T, seed=20 + i) * t).sum() for i, t in enumerate(outputs)).backward()
        found += [*(t.detach() for t in outputs), *stats.ref_logp.values(), *(leaf.grad for leaf in leaves)]
    return found


def worker(rank: int, store: str, whole: list[torch.Tensor]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    part = (slice(0, SPLIT), slice(SPLIT, V))[rank]
    for found, expected in zip(measured(part, dist.group.WORLD), whole, strict=True):
        torch.testing.assert_close(found, expected if found.shape == expected.shape else expected[part], rtol=1e-10, atol=1e-12)
    leaves, compared = setting(part)
    merged = {"top": compared["kl"]._replace(outcomes=TopK(k=3).outcomes)}
    try:
        linear_stats(leaves[0], Head(*leaves[1:]), LABELS, compared=merged, group=dist.group.WORLD, first=part.start)
    except ValueError as error:
        assert "whole vocabulary on one rank" in str(error)
    else:
        raise AssertionError("merged outcomes of a shard were accepted")
    dist.destroy_process_group()


def test_two_processes_hold_half_the_vocabulary_each(tmp_path):
    spawn(worker, (str(tmp_path / "store"), measured(slice(0, V))), nprocs=2)


def test_statistics_of_shards_merge():
    """In any order and grouping; a shard where nothing is possible changes nothing."""
    z, u = normal(T, V, seed=0), normal(T, V, seed=1)
    z[:, 10:20] = -torch.inf
    u[:, 5:15] = -torch.inf
    labels = torch.where(torch.arange(T) % 2 == 0, V - 1, 3)
    whole = torch_rows.row_stats(z, u, labels, scale=1.3, ref_scale=0.7)
    cuts = [0, 5, 10, 15, 20, V]
    parts = [torch_rows.row_stats(z[:, a:b], u[:, a:b], labels, scale=1.3, ref_scale=0.7, first=a) for a, b in itertools.pairwise(cuts)]
    for order in ([0, 1, 2, 3, 4], [3, 1, 4, 0, 2]):
        first, *others = (parts[i] for i in order)
        for other in others:
            first = merge(first, other)
        for field in ("lse_p", "logp", "entropy", "lse_q", "ref_logp"):
            torch.testing.assert_close(getattr(first, field), getattr(whole, field), rtol=1e-12, atol=1e-12)
