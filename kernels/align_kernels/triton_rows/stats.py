"""Pass 1: maximum, sum of exponentials, entropy sum and label logit of each row, policy and reference."""

# pyright: reportGeneralTypeIssues=false
# Triton annotates a jitted function as one that never returns to its caller.
import triton
import triton.language as tl

from align_kernels.codegen import lib
from align_kernels.triton_rows.load import load_logits

# Finite, so that a lane that has seen no logit yet, or only -inf, needs no test: joined with others, its sums are scaled by exp(-1e30) = 0.
NOTHING = tl.constexpr(-1e30)


@triton.jit
def _absorb(x, m, s, e, ENTROPY: tl.constexpr):
    """Lanes' running (maximum, sum, centred sum) [B] and a tile x [K, B]: one rescaling for K logits of a lane."""
    x = tl.maximum(x, NOTHING)
    higher = tl.maximum(m, tl.max(x, axis=0))
    down = m - higher
    rescale = lib.exp(down)
    x -= higher[None, :]
    w = lib.exp(x)
    if ENTROPY:
        e = (e + s * down) * rescale + tl.sum(w * x, axis=0)
    return higher, s * rescale + tl.sum(w, axis=0), e


@triton.jit
def _row(LOGITS, V, scale, cap, ENTROPY: tl.constexpr, K: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr):
    """(max x, sum e^(x - max), sum e^(x - max) (x - max)) of a row of V logits."""
    m = tl.full([B], NOTHING, ACC)
    s = tl.zeros([B], ACC)
    e = tl.zeros([B], ACC)
    cols = tl.arange(0, K)[:, None] * B + tl.arange(0, B)[None, :]
    whole = V - V % (K * B)
    for start in range(0, whole, K * B):
        m, s, e = _absorb(load_logits(LOGITS, start + cols, None, scale, cap, ACC), m, s, e, ENTROPY)
    if whole < V:
        cols += whole
        m, s, e = _absorb(load_logits(LOGITS, cols, cols < V, scale, cap, ACC), m, s, e, ENTROPY)
    highest = tl.max(m, axis=0)
    down = m - highest
    rescale = lib.exp(down)
    return highest, tl.sum((s * rescale).to(tl.float64), axis=0), tl.sum((e + s * down) * rescale, axis=0)


@triton.jit
def put(STATS, value, stride):
    """The place of the row's next number."""
    tl.store(STATS, value)
    return STATS + stride


@triton.jit(do_not_specialize=["stride_out", "first"])
def row_stats_kernel(
    LOGITS,
    REF_LOGITS,
    LABELS,
    STATS,
    V,
    stride,
    stride_ref,
    stride_out,
    first,
    scale,
    ref_scale,
    cap,
    ref_cap,
    K: tl.constexpr,
    B: tl.constexpr,
    ACC: tl.constexpr,
):
    """One program a row; STATS [7, T] float64 in RowStats' order."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(LABELS + row) - first
    here = (label >= 0) & (label < V)

    LOGITS += row * stride
    STATS += row
    m, s, e = _row(LOGITS, V, scale, cap, True, K, B, ACC)
    STATS = put(STATS, m, stride_out)
    STATS = put(STATS, s, stride_out)
    STATS = put(STATS, e, stride_out)
    STATS = put(STATS, load_logits(LOGITS, label, here, scale, cap, ACC), stride_out)
    if REF_LOGITS is not None:
        REF_LOGITS += row * stride_ref
        m, s, e = _row(REF_LOGITS, V, ref_scale, ref_cap, False, K, B, ACC)
        STATS = put(STATS, m, stride_out)
        STATS = put(STATS, s, stride_out)
        STATS = put(STATS, load_logits(REF_LOGITS, label, here, ref_scale, ref_cap, ACC), stride_out)
