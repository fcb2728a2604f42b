"""Attention of one token by its kernel against attention in float64, within what rounding honestly allows.

Interpreted on a CPU, compiled on a GPU.
"""

from __future__ import annotations

import pytest
import torch
import triton
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qbench import poisoned_allocations, within
from qbench.interpreter import repair
from qbench.model import attend as kernels
from qbench.model.attend import attend, launch, parts_of, shape_of
from qbench.model.attention import grouped
from tests.attention import DEVICE, DTYPES, MASKS, Rows, attention, is_wrong, mask_of, rows

if triton.knobs.runtime.interpret:
    repair()


def check(
    of: Rows, mask: Tensor | None = None, scale: float | None = None, cut: tuple[int, int] | None = None,
    block: int = 0,
) -> Tensor:  # fmt: skip
    """cut, block: of `launch`, in place of what is chosen. Nothing is read that was not written, and a second launch
    repeats the first to the bit."""
    places, width = of[1].shape[2:]

    def run() -> Tensor:
        if cut is None:
            return attend(*of, mask, scale)
        shape = shape_of(width, places)
        return launch(
            *of, mask, width**-0.5 if scale is None else scale, cut, (block or shape[0], *shape[1:])
        )

    with poisoned_allocations():
        y = run()
    assert y.is_contiguous()
    assert (problem := is_wrong(y, of, mask, scale)) is None, problem
    assert torch.equal(run().nan_to_num(7.0), y.nan_to_num(7.0))
    return y


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", kernels.WIDTHS)
def test_it_is_attention(width: int, dtype: torch.dtype) -> None:
    of = rows(width=width, dtype=dtype)
    check(of, mask_of("seen by each", of))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", MASKS)
def test_masks(kind: str, dtype: torch.dtype) -> None:
    of = rows(texts=3, places=83, dtype=dtype)
    check(of, mask_of(kind, of))
    check(of, mask_of(kind, of), cut=(2, 64))


@given(
    texts=st.integers(1, 3), groups=st.integers(1, 3), shared=st.integers(1, 20),
    width=st.sampled_from((16, 32, 64)), places=st.integers(1, 150), dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(MASKS), scale=st.none() | st.floats(0.0, 1.0), seed=st.integers(0, 1 << 20),
)  # fmt: skip
def test_any_shape(
    texts: int, groups: int, shared: int, width: int, places: int, dtype: torch.dtype, kind: str,
    scale: float | None, seed: int,
) -> None:  # fmt: skip
    of = rows(texts, groups, shared, width, places, dtype, seed)
    check(of, mask_of(kind, of, seed), scale)


@given(
    places=st.integers(1, 100), size=st.integers(1, 120), more=st.integers(0, 2),
    block=st.sampled_from((16, 32, 64)), kind=st.sampled_from(MASKS), seed=st.integers(0, 1 << 20),
)  # fmt: skip
def test_any_cut(places: int, size: int, more: int, block: int, kind: str, seed: int) -> None:
    """Also into parts that end within a step, and into `more` without a place."""
    of = rows(1, 2, 2, 16, places, torch.float16, seed)
    check(of, mask_of(kind, of, seed), cut=(-(-places // size) + more, size), block=block)


@pytest.mark.parametrize("shared", [1, 16, 17, kernels.MOST_ROWS])
def test_heads_of_a_group_are_rows_up_to_the_most(shared: int) -> None:
    check(rows(1, 2, shared, 16, 40))


@pytest.mark.parametrize("scale", [0.0, 0.25, -1.0])
def test_a_scale_that_is_given(scale: float) -> None:
    y = check(of := rows(dtype=torch.float16), scale=scale)
    if not scale:
        mean = of[2].double().mean(2).repeat_interleave(3, 1)[:, None]
        torch.testing.assert_close(y.double(), mean, rtol=2.0**-9, atol=2.0**-10)


def test_views_as_transformers_makes_them() -> None:
    """Heads behind tokens, places of a longer cache, keys and values in one tensor, one mask seen as each text's."""
    query, *_ = rows(texts=3, width=16, places=70)
    query = query.transpose(1, 2).contiguous().transpose(1, 2)
    cache = torch.randn(3, 90, 2, 2 * 16, generator=torch.Generator().manual_seed(1)).bfloat16().to(DEVICE)
    key, value = (part.transpose(1, 2)[:, :, 5:75] for part in cache.split(16, -1))
    of = (query, key, value)
    seen = torch.rand(1, 1, 1, 90, generator=torch.Generator().manual_seed(2)).to(DEVICE) < 0.5
    seen[..., 40] = True
    for mask in (None, seen[..., 3:73], seen.expand(3, 1, 1, 90)[..., 3:73]):
        y = check(of, mask)
        same = (each.contiguous() for each in of)
        assert torch.equal(y, attend(*same, None if mask is None else mask.contiguous(), None))


@pytest.mark.parametrize("cut", [(1, 128), (2, 64), (3, 64)])
def test_what_lies_behind_the_last_place_is_not_seen(cut: tuple[int, int]) -> None:
    query, key, value = rows(places=128)
    key[:, :, 100:], value[:, :, 100:] = torch.nan, torch.inf
    check((query, key[:, :, :100], value[:, :, :100]), cut=cut)


@pytest.mark.parametrize("kind", ["seen", "added"])
@pytest.mark.parametrize("cut", [(1, 192), (3, 64)])
def test_parts_without_a_place_that_is_seen_and_texts_that_see_nothing(
    cut: tuple[int, int], kind: str
) -> None:
    """Of four texts: one sees the first part, one the last, one all, one none."""
    of = rows(texts=4, places=180)
    seen = torch.zeros(4, 1, 1, 180, dtype=torch.bool)
    seen[0, ..., 3:60] = seen[1, ..., 150:] = seen[2] = True
    mask = seen if kind == "seen" else torch.zeros(4, 1, 1, 180).masked_fill(~seen, -torch.inf).bfloat16()
    y = check(of, mask.to(DEVICE), cut=cut)
    assert y[3].isnan().all() and y[:3].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cut", [(1, 256), (4, 64)])
@pytest.mark.parametrize("top", [0, 63, 64, 200])
def test_large_scores(top: int, cut: tuple[int, int], dtype: torch.dtype) -> None:
    """Their exponentials are far beyond fp32, above it or below; the place of the largest takes all the weight."""
    query, key, value = rows(1, 1, 2, 16, 201, dtype)
    query[:] = 0
    query[0, 0, 0, 0], query[0, 1, 0, 1] = 200.0, -200.0
    key[0, 0, :, 0], key[0, 0, :, 1] = torch.arange(201.0) - 250, 100.0
    key[0, 0, top, :2] = torch.tensor([250.0, -250.0])
    for scale in (1.0, -1.0):
        y = launch(scale * query, key, value, None, scale, cut, shape_of(16, 201))
        assert torch.equal(y[0, 0], value[0, :, top].expand(2, 16))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_spoils_its_own_head_and_group(bad: float) -> None:
    query, key, value = rows()
    query[0, 1], key[1, 1, 50] = bad, torch.nan
    for cut in ((1, 128), (2, 64)):
        y = launch(query, key, value, None, 0.25, cut, shape_of(32, 100))
        assert y[0, 0, 1].isnan().all() and y[1, 0, 3:].isnan().all()
        assert int(y.isnan().sum()) == 4 * 32


def test_no_texts() -> None:
    assert attend(*rows(texts=0), None, None).shape == (0, 1, 6, 32)


@given(programs=st.integers(1, 1000), places=st.integers(1, 10000), processors=st.integers(1, 200))
def test_parts_take_each_place_once_and_as_many_as_the_gpu_wants(
    programs: int, places: int, processors: int
) -> None:
    parts, size = parts_of(programs, places, processors)
    assert (parts - 1) * size < places <= parts * size
    assert 1 <= parts <= kernels.MOST_PARTS and size % kernels.LEAST_PART == 0
    assert parts == 1 or parts * programs <= 2 * processors


def test_the_operator_is_what_torch_takes_it_for() -> None:
    of = rows(places=20)
    for mask in (None, mask_of("seen by each", of)):
        torch.library.opcheck(torch.ops.qbench.attend.default, (*of, mask, 0.3))


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("texts", "places"), [(1, 208), (1, 4224), (8, 2064), (32, 208), (64, 77)])
def test_real_shapes_compiled(texts: int, places: int, dtype: torch.dtype) -> None:
    of = rows(texts, 8, 4, 128, places, dtype)
    for kind in MASKS:
        check(of, mask_of(kind, of))


@pytest.mark.gpu
@pytest.mark.parametrize("whole", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("kind", MASKS[:-1])
def test_grouped_attention_is_this_one_and_torchs(
    kind: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = rows(4, 2, 4, 128, 333)
    mask = mask_of(kind, of)
    each = [torch.repeat_interleave(tensor, 4, dim=1) for tensor in of[1:]]
    attended = torch.nn.functional.scaled_dot_product_attention
    wanted = attended(
        of[0].double(), *(tensor.double() for tensor in each), scale=0.3,
        attn_mask=mask if mask is None or mask.dtype == torch.bool else mask.double(),
    )  # fmt: skip

    def torchs(*given: object, **options: object) -> None:
        raise AssertionError("torch's attention was asked")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", torchs)
    run = torch.compile(grouped, fullgraph=True, dynamic=False) if whole else grouped
    with torch.no_grad():
        y, weights = run(torch.nn.Module(), *of, mask, scaling=0.3)
    _, error = attention(of, mask, 0.3)
    assert weights is None
    problem = within(y.flatten(0, 2), wanted.transpose(1, 2).flatten(0, 2), error.flatten(0, 2))
    assert problem is None, problem
    assert torch.equal(y, attend(*of, mask, 0.3))


@pytest.mark.gpu
@pytest.mark.parametrize("places", [208, 4224])
def test_it_repeats_in_a_graph_behind_kernels_that_write_its_operands(places: int) -> None:
    """Launched early it must wait for them: a token's query and its place of the cache are written just before."""
    query, key, value = rows(1, 8, 4, 128, places)
    new = [torch.randn_like(key[:, :, 0]) for _ in range(20)]

    def steps() -> Tensor:
        made = []
        for place, token in enumerate(new):
            key[:, :, place].copy_(token)
            value[:, :, place].copy_(token)
            made.append(attend(query + 0.01 * place, key, value, None, None))
        return torch.stack(made)

    before = key.clone(), value.clone()

    def again() -> None:
        key.copy_(before[0])
        value.copy_(before[1])

    wanted = []
    for place, token in enumerate(new):
        key[:, :, place], value[:, :, place] = token, token
        torch.cuda.synchronize()
        wanted.append(attend(query + 0.01 * place, key, value, None, None))
        torch.cuda.synchronize()
    again()
    assert torch.equal(steps(), torch.stack(wanted))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again()
        made = steps()
    for _ in range(20):
        made.zero_()
        graph.replay()
        assert torch.equal(made, torch.stack(wanted))
