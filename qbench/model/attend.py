"""Attention of one token for each text over a cache, on a GPU: heads that share keys are rows of one product.

    y[b, h] = softmax(scale * q[b, h] . k[b, g]^T + mask[b]) . v[b, g],   g = h // (heads / groups)

torch's attention is made for prompts: for one token and 208 places cuDNN's kernel takes 8.9 us on an H200 by the
profiler, and a memset 0.8 before it, a tenth of a step of Llama-3.1-8B with FP4 weights. Engines have a kernel for
this; so has this harness, or it would measure torch's attention instead of the products. A program reads the places
of one group once and keeps a running maximum and sum in fp32, as FlashAttention does (Dao et al. 2022,
arXiv:2205.14135); its weights are rounded to the keys' type for the second product. Where texts and groups do not
fill the GPU, a group's places are cut into parts, and a second kernel joins them in their order: results repeat to
the bit. From sm_90 on, both wait for the kernel before them before anything else, and let the next one begin, which
may fetch its weights meanwhile.

Predicted (H200, 32 heads in 8 groups of 128, 208 places): 4 us with one part, for 104 KB a multiprocessor. Measured
(torch 2.11, Triton 3.6, graph replay, other keys each time, bf16), us, and torch's attention of the same rows:

    texts, places     1, 208    8, 208    32, 208    1, 4224    8, 2064
    here                4.0       6.5        13.8       10.5        22.1
    torch              11.0      13.1        22.3       90.5        52.9

One part takes 7.6 at one text: a multiprocessor's own loads are slower than the second kernel's launch.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

WIDTHS = (16, 32, 64, 128, 256)  # of heads
MOST_ROWS = 64  # heads that share keys
MOST_SUMS = 8192  # of all rows of a program: more spill, and do not fit the shared memory of sm_89 and sm_120
LEAST_PART, MOST_PARTS = 64, 16  # places of a part, parts of a group
_LIBRARY = torch.library.Library("qbench", "FRAGMENT")


@triton.jit
def attend_kernel(
    q_ptr, k_ptr, v_ptr, mask_ptr, out_ptr, part_ptr, places, part, scale, groups, heads,
    q_text, q_head, k_text, k_group, k_place, v_text, v_group, v_place, mask_text,
    SHARED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, MASK: tl.constexpr,
    JOINED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Part program_id(1) of the places of group program_id(0) of all texts' groups.

    out [texts * heads, WIDTH]; or, JOINED, part fp32 [texts * heads, parts, WIDTH + 2]: the sum of weighted values, the
    maximum, the sum of weights. Scores are in units of log2 e. MASK: 0 none, 1 added to scores, 2 nonzero where seen.
    """
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    text = (tl.program_id(0) // groups).to(tl.int64)
    group = tl.program_id(0) % groups
    row = tl.arange(0, ROWS)
    at = tl.arange(0, WIDTH)
    there = row < SHARED
    head = group * SHARED + row
    q = tl.load(q_ptr + text * q_text + head[:, None] * q_head + at[None, :], mask=there[:, None], other=0.0)
    most = tl.full([ROWS], -float("inf"), tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, WIDTH], tl.float32)
    begin = tl.program_id(1) * part
    end = min(begin + part, places)
    k_ptr += text * k_text + group * k_group
    v_ptr += text * v_text + group * v_group
    for start in range(begin, end, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < end
        index = place.to(tl.int64)[:, None]
        k = tl.load(k_ptr + index * k_place + at[None, :], mask=inside[:, None], other=0.0)
        v = tl.load(v_ptr + index * v_place + at[None, :], mask=inside[:, None], other=0.0)
        score = tl.dot(q, tl.trans(k)) * scale
        if MASK == 1:
            seen = tl.load(mask_ptr + text * mask_text + place, mask=inside, other=0.0).to(tl.float32)
            score += seen[None, :] * 1.4426950408889634
        elif MASK == 2:
            inside = inside & (tl.load(mask_ptr + text * mask_text + place, mask=inside, other=0) != 0)
        score = tl.where(inside[None, :], score, -float("inf"))
        now = tl.maximum(most, tl.max(score, axis=1))
        base = tl.where(now == -float("inf"), 0.0, now)  # nothing seen yet
        kept = tl.exp2(most - base)
        weights = tl.exp2(score - base[:, None])
        weight = weight * kept + tl.sum(weights, axis=1)
        sums = sums * kept[:, None] + tl.dot(weights.to(v.dtype), v)
        most = now
    if JOINED:
        target = part_ptr + ((text * heads + head) * tl.num_programs(1) + tl.program_id(1)) * (WIDTH + 2)
        tl.store(target[:, None] + at[None, :], sums, mask=there[:, None])
        tl.store(target + WIDTH, most, mask=there)
        tl.store(target + WIDTH + 1, weight, mask=there)
    else:
        y = sums / weight[:, None]
        target = out_ptr + (text * heads + head)[:, None] * WIDTH + at[None, :]
        tl.store(target, y.to(out_ptr.dtype.element_ty), mask=there[:, None])


@triton.jit
def join_kernel(part_ptr, out_ptr, parts, WIDTH: tl.constexpr, PARTS: tl.constexpr, EARLY: tl.constexpr):
    """The parts of a head of a text, program_id(0): as if there had been one."""
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    head = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WIDTH)
    part = tl.arange(0, PARTS)
    there = part < parts
    source = part_ptr + (head * parts + part) * (WIDTH + 2)
    most = tl.load(source + WIDTH, mask=there, other=-float("inf"))
    weight = tl.load(source + WIDTH + 1, mask=there, other=0.0)
    sums = tl.load(source[:, None] + at[None, :], mask=there[:, None], other=0.0)
    top = tl.max(most, axis=0)
    kept = tl.exp2(most - tl.where(top == -float("inf"), 0.0, top))
    y = tl.sum(sums * kept[:, None], axis=0) / tl.sum(weight * kept, axis=0)
    tl.store(out_ptr + head * WIDTH + at, y.to(out_ptr.dtype.element_ty))


def takes(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Is it attention that `attend` computes? On a GPU, of 16 bits, of one token, heads of a width of WIDTHS that lie
    without gaps, and a mask of all heads. Not where a derivative is asked for: the operator has none."""
    given = (query, key, value) if mask is None else (query, key, value, mask)
    alike = query.dtype == key.dtype == value.dtype and query.dtype in (torch.bfloat16, torch.float16)
    texts, heads, tokens, width = query.shape
    groups, places = key.shape[1:3]
    if query.device.type != "cuda" or not alike or tokens != 1 or width not in WIDTHS or not places:
        return False
    if torch.is_grad_enabled() and any(each.requires_grad for each in given):
        return False
    if key.shape != value.shape or key.shape != (texts, groups, places, width):
        return False
    if heads % groups or heads // groups > min(MOST_ROWS, MOST_SUMS // width):
        return False
    if max(heads * query.stride(1), groups * key.stride(1), groups * value.stride(1)) >= 1 << 31:
        return False  # the kernel's offsets within a text have 32 bits
    if mask is not None and (mask.shape[1:] != (1, 1, places) or mask.shape[0] not in (1, texts)):
        return False
    if mask is not None and mask.dtype != torch.bool and not mask.is_floating_point():
        return False
    return all(each.stride(-1) == 1 for each in given)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Attention [texts, 1, heads, width] of query [texts, heads, 1, width] over keys and values
    [texts, groups, places, width]; mask [1 or texts, 1, 1, places], bool (True: seen) or added to the scores.

    scale: of the scores, 1 / sqrt(width) by default. A text that sees no place is NaN, also where all is masked by the
    least finite number. `takes` says what may be given.
    """
    y: Tensor = torch.ops.qbench.attend(
        query, key, value, mask, 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    )
    return y


def parts_of(programs: int, places: int, processors: int) -> tuple[int, int]:
    """(parts, places of each): two programs for each multiprocessor, if there are places enough."""
    parts = max(1, min(2 * processors // programs, MOST_PARTS, places // LEAST_PART + 1))
    size = -(-places // parts)
    size = -(-size // LEAST_PART) * LEAST_PART
    return -(-places // size), size


def shape_of(width: int, places: int) -> tuple[int, int, int]:
    """(places in a step, warps, steps fetched ahead): the quickest of eight on an H200."""
    return min(64, max(16, triton.next_power_of_2(places))), 4, 3 if width <= 128 else 2


def launch(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, cut: tuple[int, int],
    shape: tuple[int, int, int],
) -> Tensor:  # fmt: skip
    """`attend` by so many parts of so many places, and of a shape."""
    texts, heads, _, width = query.shape
    groups, places = key.shape[1:3]
    (parts, size), (block, warps, stages) = cut, shape
    out = torch.empty(texts, 1, heads, width, dtype=query.dtype, device=query.device)
    early = query.device.type == "cuda" and torch.cuda.get_device_capability(query.device) >= (9, 0)
    work = out
    if parts > 1:
        work = torch.empty(texts * heads, parts, width + 2, dtype=torch.float32, device=query.device)
    kind = 0 if mask is None else 2 if mask.dtype == torch.bool else 1
    seen = mask.view(torch.uint8) if mask is not None and kind == 2 else mask
    mask_text = 0 if mask is None or mask.shape[0] == 1 else mask.stride(0)
    with torch.cuda.device_of(query):
        attend_kernel[(texts * groups, parts)](
            query, key, value, seen, out, work, places, size, scale * math.log2(math.e), groups, heads,
            query.stride(0), query.stride(1), *key.stride()[:3], *value.stride()[:3], mask_text,
            SHARED=heads // groups, ROWS=max(16, triton.next_power_of_2(heads // groups)), WIDTH=width, BLOCK=block,
            MASK=kind, JOINED=parts > 1, EARLY=early, num_warps=warps, num_stages=stages, launch_pdl=early,
        )  # fmt: skip
        if parts > 1:
            join_kernel[(texts * heads,)](
                work, out, parts, WIDTH=width, PARTS=triton.next_power_of_2(parts), EARLY=early, num_warps=4,
                launch_pdl=early,
            )  # fmt: skip
    return out


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    if not query.numel():
        return _like(query, key, value, mask, scale)
    cuda = query.device.type == "cuda"  # otherwise interpreted
    processors = torch.cuda.get_device_properties(query.device).multi_processor_count if cuda else 132
    cut = parts_of(query.shape[0] * key.shape[1], key.shape[2], processors)
    return launch(query, key, value, mask, scale, cut, shape_of(query.shape[3], key.shape[2]))


def _like(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    return query.new_empty(query.shape[0], 1, query.shape[1], query.shape[3])


_LIBRARY.define("attend" + torch.library.infer_schema(_attend, mutates_args=()))
_LIBRARY.impl("attend", _attend, "CompositeExplicitAutograd")
torch.library.register_fake("qbench::attend", _like, lib=_LIBRARY)
