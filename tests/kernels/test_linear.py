"""`linear_stats` on the torch backend equals the definitions, value and gradient, however it is cut into blocks."""

import math

import pytest
import torch
from helpers.definitions import every
from kernels.heads import KINDS, H, T, V, assert_gradients_match, chi2, direct, direct_logits, kl, make_head, normal

from align.divergences.forward_kl import ForwardKl
from align.divergences.jensen_shannon import JensenShannon
from align.divergences.pearson import Pearson
from align.divergences.renyi import Renyi
from align.divergences.reverse_kl import ReverseKl
from align.divergences.total_variation import TotalVariation
from align.divergences.tsallis import Tsallis
from align.estimators.top_k import TopK
from align_kernels import Compared, Head, exact_divergence, linear_stats, linear_token_stats, sampled, token_stats

KNOWN = every(settings=1)
LABELS = torch.arange(T) * 3 % V


@pytest.mark.parametrize("name", KNOWN)
def test_every_divergence_of_the_room(name):
    known = KNOWN[name]
    hidden, head, ref_hidden, ref_head = normal(T, H, seed=0).requires_grad_(), make_head(), normal(T, H, seed=2), make_head(seed=3)
    head.weight.requires_grad_()
    expected = direct(
        direct_logits(hidden, head, 0.8),
        LABELS,
        {"d": (direct_logits(ref_hidden, ref_head, 0.8), lambda p, q: known.of_mean((q * known(p / q)).sum(-1)))},
    )
    for elements in (1 << 24, 2 * V * 4):
        stats = linear_stats(
            hidden,
            head,
            LABELS,
            temperature=0.8,
            compared={"d": Compared(known.divergence, ref_hidden, ref_head)},
            elements=elements,
            backend="torch",
        )
        torch.testing.assert_close(stats.div, expected.div, rtol=1e-11, atol=1e-12)
        assert_gradients_match(
            [stats.logp, *stats.div.values()], [expected.logp, *expected.div.values()], [hidden, head.weight], rtol=1e-9, atol=1e-10
        )


def compared_with(ref_hidden, ref_head) -> dict:
    merged = TopK(k=4).outcomes
    return {
        "kl": Compared(ReverseKl(), ref_hidden, ref_head),
        "chi2": Compared(Pearson(), ref_hidden, ref_head),
        "top": Compared(Renyi(q=2.0), ref_hidden, ref_head, merged),
        "sampled": Compared(None, ref_hidden, ref_head),
    }


def top_chi2(p, q):
    kept = q.topk(4, dim=-1).indices
    p, q = (torch.cat([x.gather(-1, kept), x.scatter(-1, kept, 0).sum(-1, keepdim=True)], -1) for x in (p, q))
    return torch.log1p(chi2(p, q))


@pytest.mark.parametrize("elements", [1, 5 * V, 29 * V, 1 << 24], ids="elements={}".format)
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_several_comparisons_in_one_call(kind, temperature, elements):
    """Two over the vocabulary, one over merged outcomes with a transform, one at the sampled token; all heads, any blocks."""
    hidden, head, ref_hidden, ref_head = normal(T, H, seed=0).requires_grad_(), make_head(kind), normal(T, H, seed=2), make_head(kind, 3)
    leaves = [hidden, head.weight.requires_grad_(), *([] if head.bias is None else [head.bias.requires_grad_()])]
    ref = direct_logits(ref_hidden, ref_head, temperature)
    expected = direct(direct_logits(hidden, head, temperature), LABELS, {"kl": (ref, kl), "chi2": (ref, chi2), "top": (ref, top_chi2)})
    ref_logp = torch.log_softmax(ref, -1).gather(1, LABELS[:, None])[:, 0]
    k3 = torch.expm1(ref_logp - expected.logp.detach()) - ref_logp + expected.logp.detach()

    stats = linear_stats(hidden, head, LABELS, temperature=temperature, compared=compared_with(ref_hidden, ref_head), elements=elements)
    estimate = sampled(ReverseKl(), stats.logp, stats.ref_logp["sampled"])
    torch.testing.assert_close(stats.ref_logp, dict.fromkeys(stats.ref_logp, ref_logp), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((stats.logp, stats.entropy, stats.div), tuple(expected), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(estimate, k3, rtol=1e-10, atol=1e-10)
    coefficient = (expected.logp - ref_logp).detach()
    assert_gradients_match(
        [stats.logp, stats.entropy, *stats.div.values(), estimate],
        [expected.logp, expected.entropy, *expected.div.values(), coefficient * expected.logp],
        leaves,
        1e-9,
        1e-9,
    )


def test_gradcheck():
    """Numerical differences of every differentiable output, in hidden, weight and bias, across block borders."""
    head, ref_hidden, ref_head = make_head("all", vocabulary=7, width=3), normal(4, 3, seed=2), make_head("plain", 3, 7, 3)
    compared = {
        "js": Compared(JensenShannon(), ref_hidden, ref_head),
        "top": Compared(Tsallis(q=0.5), ref_hidden, ref_head, TopK(k=3).outcomes),
    }

    def outputs(hidden, weight, bias):
        stats = linear_stats(
            hidden,
            head._replace(weight=weight, bias=bias),
            torch.tensor([0, 6, 3, -100]),
            temperature=0.7,
            compared=compared,
            elements=3 * 7 * 2,
        )
        return stats.logp, stats.entropy, *stats.div.values()

    leaves = [t.requires_grad_() for t in (normal(4, 3, seed=0), head.weight, head.bias)]
    assert torch.autograd.gradcheck(outputs, leaves, eps=1e-6, atol=1e-7, rtol=1e-6)


def test_each_gradient_is_taken_only_where_it_is_wanted():
    """A frozen head, frozen hidden states, an output that no loss uses: the same gradients for what is left."""
    ref_hidden, ref_head, labels = normal(T, H, seed=2), make_head(seed=3), LABELS

    def grads(trained: tuple[bool, bool], *, elements: int):
        leaves = [normal(T, H, seed=0).requires_grad_(trained[0]), make_head().weight.requires_grad_(trained[1])]
        stats = linear_stats(
            leaves[0],
            Head(leaves[1]),
            labels,
            elements=elements,
            compared={"a": Compared(ReverseKl(), ref_hidden, ref_head), "b": Compared(ForwardKl(), ref_hidden, ref_head)},
        )
        stats.div["b"].sum().backward()
        return [leaf.grad for leaf in leaves]

    for elements in (1 << 24, 4 * V):
        whole = grads((True, True), elements=elements)
        for i in (0, 1):
            partial = grads((i == 0, i == 1), elements=elements)
            assert partial[1 - i] is None
            torch.testing.assert_close(partial[i], whole[i], rtol=1e-13, atol=1e-14)
    assert not linear_stats(normal(T, H, seed=0), make_head(), labels).logp.requires_grad


def test_ignored_tokens_are_not_there():
    """Zeros in every output, nothing in any gradient, and whatever their hidden states hold is never looked at."""
    labels = torch.where(torch.arange(T) % 3 == 0, -100, LABELS)
    kept = labels != -100
    head, ref_head, ref_hidden = make_head("bias"), make_head(seed=3), normal(T, H, seed=2)
    hidden = torch.where(kept[:, None], normal(T, H, seed=0), math.nan)
    results = []
    for chosen in (slice(None), kept):
        leaves = [hidden[chosen].clone().requires_grad_(), head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()]
        stats = linear_stats(
            leaves[0],
            Head(*leaves[1:]),
            labels[chosen],
            elements=4 * V,
            compared={"d": Compared(ReverseKl(), ref_hidden[chosen], ref_head)},
        )
        outputs = [stats.logp, stats.entropy, stats.ref_logp["d"], stats.div["d"]]
        sum(o.sum() for o in outputs).backward()
        results.append((outputs, [leaf.grad for leaf in leaves]))
    (outputs, grads), (fewer, fewer_grads) = results
    for found, expected in zip(outputs, fewer, strict=True):
        assert torch.equal(found[kept], expected) and (found[~kept] == 0).all()
    assert torch.equal(grads[0][kept], fewer_grads[0]) and (grads[0][~kept] == 0).all()
    assert torch.equal(grads[1], fewer_grads[1]) and torch.equal(grads[2], fewer_grads[2])


@pytest.mark.parametrize("count", [0, 3])
def test_no_tokens_at_all(count):
    """An empty batch, or one that is ignored whole, is a batch with no gradient, not an error."""
    hidden, weight = normal(count, H, seed=0).requires_grad_(), make_head().weight.requires_grad_()
    stats = linear_token_stats(hidden, weight, torch.full((count,), -100), normal(count, H, seed=1), divergence=ReverseKl())
    (stats.logp.sum() + stats.div.sum()).backward()
    assert stats.logp.tolist() == stats.entropy.tolist() == stats.div.tolist() == [0.0] * count
    assert (weight.grad == 0).all() and (hidden.grad == 0).all()


@pytest.mark.parametrize(
    "divergence", [ReverseKl(), ForwardKl(), JensenShannon(), Tsallis(q=0.5), TotalVariation()], ids=lambda d: type(d).__name__
)
def test_impossible_tokens(divergence):
    """Logits of -inf on both sides (a padded vocabulary), even where a whole block of them is: as without the tokens."""
    bias = torch.zeros(V, dtype=torch.float64)
    bias[-8:] = -math.inf
    hidden, weight, ref_hidden = normal(T, H, seed=0).requires_grad_(), normal(V, H, seed=1), normal(T, H, seed=2)
    labels = torch.arange(T) % (V - 8)
    for elements in (1 << 24, 2 * 4 * 4):
        results = []
        for head in (Head(weight, bias), Head(weight[:-8])):
            stats = linear_stats(hidden, head, labels, compared={"d": Compared(divergence, ref_hidden, head)}, elements=elements)
            (grad,) = torch.autograd.grad((3 * stats.logp + 3 * stats.entropy + stats.div["d"]).sum(), hidden)
            results.append((stats.logp, stats.entropy, stats.div["d"], grad))
        for masked, shorter in zip(*results, strict=True):
            torch.testing.assert_close(masked, shorter, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["bias", "all"])
def test_alone(kind):
    """Nothing to compare with: whole or in blocks, with an impossible token, log-prob and entropy are the definition's."""
    head = make_head(kind)
    head.bias[5] = -math.inf
    leaves = [normal(T, H, seed=0).requires_grad_(), head.weight.requires_grad_()]
    labels = torch.where(LABELS == 5, -100, LABELS)
    kept = labels != -100
    logits = direct_logits(leaves[0], head, 0.7)[kept]
    possible = logits if kind == "all" else torch.cat([logits[:, :5], logits[:, 6:]], 1)  # a soft cap makes -inf possible
    logp = torch.log_softmax(possible, -1)
    expected = [torch.log_softmax(logits, -1).gather(1, labels[kept, None])[:, 0], -(logp.exp() * logp).sum(-1)]
    for elements in (1 << 24, 4 * V):
        stats = linear_stats(leaves[0], head, labels, temperature=0.7, elements=elements)
        assert_gradients_match([3 * stats.logp[kept], 3 * stats.entropy[kept]], [3 * t for t in expected], leaves, 1e-10, 1e-11)
        torch.testing.assert_close([stats.logp[kept], stats.entropy[kept]], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", KNOWN)
def test_equal_distributions(name, dtype):
    """0 and no gradient, not nearly."""
    hidden, weight = normal(T, H, seed=0, dtype=dtype).requires_grad_(), (3 * normal(V, H, seed=1)).to(dtype).requires_grad_()
    stats = linear_token_stats(hidden, weight, LABELS, hidden.detach(), divergence=KNOWN[name].divergence, temperature=0.7)
    stats.div.sum().backward()
    assert (stats.div == 0).all() and (hidden.grad == 0).all() and (weight.grad == 0).all()


def test_from_logits():
    """`token_stats` is the same from logits, in float32 and with rows longer than the vocabulary."""
    wide = normal(T, V + 5, seed=0, dtype=torch.float32).requires_grad_()
    logits, ref = wide[:, :V], normal(T, V, seed=1, dtype=torch.float32)
    expected = direct(logits.double() / 0.7, LABELS, {"d": (ref.double() / 0.7, chi2)})
    found = token_stats(logits, LABELS, ref, Pearson(), temperature=0.7)
    torch.testing.assert_close(
        found.ref_logp.double(), torch.log_softmax(ref.double() / 0.7, -1).gather(1, LABELS[:, None])[:, 0], rtol=0, atol=1e-6
    )
    for one, other in ((found.logp, expected.logp), (found.entropy, expected.entropy), (found.div, expected.div["d"])):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=2e-6, atol=1e-6)
    assert_gradients_match(
        [found.logp, found.entropy, found.div],
        [t.float() for t in (expected.logp, expected.entropy, expected.div["d"])],
        [wide],
        rtol=2e-5,
        atol=2e-5,
    )


def test_from_logits_over_outcomes_and_alone():
    logits, ref = normal(T, V, seed=0).requires_grad_(), normal(T, V, seed=1)
    expected = direct(logits, LABELS, {"d": (ref, top_chi2)})
    found = token_stats(logits, LABELS, ref, Renyi(q=2.0), outcomes=TopK(k=4).outcomes)
    assert_gradients_match([found.div, found.logp], [expected.div["d"], expected.logp], [logits], rtol=1e-10, atol=1e-11)
    alone = token_stats(logits, LABELS)
    assert alone.ref_logp is None and alone.div is None
    assert_gradients_match([alone.logp], [expected.logp], [logits], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    "keys",
    [
        {"labels": LABELS.int()},
        {"hidden": normal(T, H + 1, seed=0)},
        {"temperature": 0.0},
        {"elements": 0},
        {"ref_hidden": normal(T + 1, H, seed=0)},
        {"ref_weight": normal(V + 1, H, seed=0)},
        {"hidden": normal(T, H, seed=0).float()},
        {"logits_dtype": torch.float16},
        {"backend": "cuda"},
    ],
    ids=lambda keys: "-".join(keys),
)
def test_what_does_not_fit_is_refused(keys):
    good = {"hidden": normal(T, H, seed=0), "weight": make_head().weight, "labels": LABELS, "ref_hidden": normal(T, H, seed=1)}
    linear_token_stats(**good)
    with pytest.raises(ValueError, match=r"must|tokens and the policy|one type|no backend"):
        linear_token_stats(**good | keys)


def test_a_divergence_needs_a_reference():
    with pytest.raises(ValueError, match="nothing to be compared with"):
        linear_token_stats(normal(T, H, seed=0), make_head().weight, LABELS, divergence=ReverseKl())
    with pytest.raises(ValueError, match="nothing to be compared with"):
        token_stats(normal(T, V, seed=0), LABELS, divergence=ReverseKl())
    with pytest.raises(ValueError, match="do not fit"):
        token_stats(normal(T, V, seed=0), LABELS[1:])


def test_a_label_nobody_has_is_visible():
    """A label outside the vocabulary has log-prob -inf: the loss is not finite, and the run stops."""
    assert linear_stats(normal(1, H, seed=0), make_head(), torch.tensor([V])).logp.item() == -math.inf


def test_exact_divergence_takes_any_leading_shape():
    logits = normal(2, 3, V, seed=0)
    logp, ref = torch.log_softmax(logits, -1), torch.log_softmax(normal(2, 3, V, seed=1), -1)
    torch.testing.assert_close(exact_divergence(ReverseKl(), logp, ref), kl(logp.exp(), ref.exp()), rtol=1e-12, atol=0)
