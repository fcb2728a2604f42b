"""FP8 on Hopper in one launch that holds most of a tensor: without a GPU what is read and written, and which tensors
take it; on one the bits of two launches. tests/compile judges what it is compiled to."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from qbench.aot.driver import recording
from qkernels.tensor import QTensor
from qkernels.triton.fp8_held_sm90 import LEAST, MOST, SLOTS, STAGE, STAGES, WARPS, fp8_held_sm90, share
from qkernels.triton.fp8_quantize import fp8_quantize
from qkernels.triton.workspaces import counters
from tests.held_on_numpy import Sizes, held

SHIPPED = Sizes(32 * WARPS, 3, SLOTS, STAGE, STAGES)
TILES = 3 * (STAGE * STAGES + SLOTS)  # that three programs hold


def read_again(pieces: int, sizes: Sizes) -> int:
    """Words of the tiles for which there is no slot: not the last one, which may not be whole."""
    *_, tiles, more = share(pieces, sizes.threads, sizes.programs, sizes.stage, sizes.stages)
    turns = [tiles + (program < more) for program in range(sizes.programs)]
    return 4 * sizes.threads * sum(max(0, each - sizes.slots) for each in turns)


@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize(
    "tiles", [3, 5, 6, 3 * STAGE * STAGES, 3 * STAGE * STAGES + 2, TILES, TILES + 1, TILES + 3 * SLOTS, 2 * TILES]
)  # fmt: skip
def test_every_word_is_looked_at_and_written_once_and_none_is_read_again_that_is_held(
    tiles: int, more: int
) -> None:
    pieces = max(tiles * SHIPPED.threads + more, 2 * SHIPPED.threads + 1)
    assert held(pieces, SHIPPED) == read_again(pieces, SHIPPED)


@given(
    sizes=st.builds(
        Sizes, threads=st.sampled_from([32, 64]), programs=st.integers(1, 5), slots=st.integers(1, 6),
        stage=st.sampled_from([2, 4]), stages=st.integers(1, 4),
    ),
    pieces=st.one_of(st.integers(1, 3000), st.integers(1, 48).map(lambda tiles: 64 * tiles)),
)  # fmt: skip
def test_so_it_is_however_many_programs_slots_and_stages_there_are(sizes: Sizes, pieces: int) -> None:
    assume(pieces > (sizes.programs - 1) * sizes.threads)
    assert held(pieces, sizes) == read_again(pieces, sizes)


@pytest.mark.parametrize(
    ("target", "elements", "kernel"),
    [
        ("sm_90", LEAST - 8, "fp8_held_kernel"),
        ("sm_90", LEAST, "fp8_held_sm90_kernel"),
        ("sm_90", MOST, "fp8_held_sm90_kernel"),
        ("sm_90", MOST + 8, "fp8_held_kernel"),
        ("sm_100", LEAST, "fp8_held_kernel"),
    ],
)
def test_which_tensors_take_it(target: str, elements: int, kernel: str) -> None:
    with recording(target) as launches:
        fp8_quantize(torch.empty(1, elements, dtype=torch.float16))
    assert [launch.id for launch in launches] == [kernel]


def test_a_tensor_whose_words_do_not_begin_at_sixteen_bytes_takes_another() -> None:
    for start in (0, 2, 8):
        with recording("sm_90") as launches:
            fp8_quantize(torch.empty(LEAST + 8, dtype=torch.float16)[start : start + LEAST].view(1, -1))
        assert [launch.id for launch in launches] == [f"fp8_held{'' if start == 2 else '_sm90'}_kernel"]


def made(m: int, k: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(m + k)).to(dtype)
    return x.cuda()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape",
    [(40, 8208), (1000, 8200), (1001, 8704), (2049, 8200), (3001, 8704), (8191, 8192), (9000, 9000)],
    ids=str,
)  # fmt: skip
def test_its_bits_are_those_of_two_launches(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Sizes that leave a part of a tile, of a stage or of a round, some of which fp8_quantize gives to others."""
    x = made(*shape, dtype)
    for place, value in ((0, 70.0), (-1, -700.0), (x.numel() // 2, torch.inf), (-1, torch.nan)):
        x.view(-1)[place] = value
        two = fp8_quantize(x, held=False)
        for _ in range(2):
            one = QTensor(torch.empty_like(two.data), torch.empty_like(two.scale), two.format, two.shape)
            one.data.view(torch.uint8).fill_(7)
            fp8_held_sm90(x, one.data.view(torch.uint8), one.scale)
            for found, wanted in ((one.data, two.data), (one.scale, two.scale)):
                assert torch.equal(found.view(torch.uint8), wanted.view(torch.uint8))
        assert not counters(x.device)[:64].any()
