"""The Triton kernel of engine.paged, imported where it is used: Triton comes with GPUs alone."""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["width", "span"])  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]  # Triton takes no other types than its own
    q, kv, tables, lens, out, lse, width, span, kv_heads, scale,
    GROUP: tl.constexpr, PADDED: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A row, a key/value head with its group of queries, and a part of the row's blocks."""
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    parts = tl.num_programs(2)
    g, d, t = tl.arange(0, PADDED), tl.arange(0, D), tl.arange(0, BLOCK)
    own = g < GROUP
    first_query = (row * kv_heads + head) * GROUP
    at = (first_query + g)[:, None] * D + d[None, :]
    queries = tl.load(q + at, mask=own[:, None], other=0.0)
    length = tl.load(lens + row).to(tl.int32)
    begin = part * span
    end = tl.minimum(begin + span, tl.cdiv(length, BLOCK))
    top = tl.full([PADDED], float("-inf"), tl.float32)
    total = tl.zeros([PADDED], tl.float32)
    sums = tl.zeros([PADDED, D], tl.float32)
    for b in range(begin, end):
        block = tl.load(tables + row * width + b)
        there = ((block * 2 * kv_heads + head) * BLOCK + t)[:, None] * D + d[None, :]
        seen = b * BLOCK + t < length
        keys = tl.load(kv + there, mask=seen[:, None], other=0.0)
        values = tl.load(kv + there + kv_heads * BLOCK * D, mask=seen[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - new_top[:, None])
        kept = tl.exp(top - new_top)
        total = total * kept + tl.sum(weights, 1)
        add = tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        sums = sums * kept[:, None] + add
        top = new_top
    some = end > begin  # else the row has ended before this part
    scaled = sums / tl.where(some, total, 1.0)[:, None]
    first_out = ((row * parts + part) * kv_heads + head) * GROUP
    tl.store(out + (first_out + g)[:, None] * D + d[None, :], scaled, mask=own[:, None])
    tl.store(lse + first_out + g, tl.where(some, top + tl.log(total), float("-inf")), mask=own)


def launch(
    q: Tensor, kv: Tensor, tables: Tensor, lens: Tensor, out: Tensor, lse: Tensor, scale: float
) -> None:
    """out (N, parts, H, D) and lse (N, parts, H), float32; all contiguous, q of kv's type."""
    n, parts, heads, dim = out.shape
    kv_heads, width = kv.shape[2], tables.shape[1]
    group = heads // kv_heads
    _attend[(n, kv_heads, parts)](
        q, kv, tables, lens, out, lse, width, -(-width // parts), kv_heads, scale,
        GROUP=group, PADDED=max(16, triton.next_power_of_2(group)), D=dim, BLOCK=kv.shape[3],
    )  # fmt: skip
