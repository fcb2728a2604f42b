"""One cooperative launch gives what two give, bit for bit, and leaves the words where programs meet at zero.

Interpreted, programs run one after the other and cannot wait for each other: one tile then, and many on a GPU.
"""

from __future__ import annotations

import pytest
import torch
import triton

from qbench.interpreter import repair
from qkernels.tensor import QTensor
from qkernels.triton import one_launch
from qkernels.triton.fp8_quantize import fp8_quantize
from qkernels.triton.launch import choose_tile
from qkernels.triton.nvfp4_quantize import nvfp4_quantize

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(1, 1024), (3, 128)] + [(16, 8192), (200, 1040), (1000, 2048)] * (DEVICE == "cuda")
if triton.knobs.runtime.interpret:
    repair()


def same(a: QTensor, b: QTensor) -> bool:
    def parts(q: QTensor) -> list[torch.Tensor]:
        tensors = (q.data, q.scale, q.global_scale)
        return [t.reshape(-1).view(torch.uint8) for t in tensors if t is not None]

    return all(torch.equal(p, q) for p, q in zip(parts(a), parts(b), strict=True))


@pytest.mark.parametrize("bad", [0.0, torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("m", "k"), SHAPES)
def test_one_launch_gives_what_two_give(m: int, k: int, dtype: torch.dtype, bad: float) -> None:
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(m)).to(dtype).to(DEVICE)
    x[0, 5] = bad
    assert one_launch.fits_one_launch(choose_tile(m, k, elements=4096), x.device)
    for _again in range(3):
        assert same(one_launch.fp8_once(x), fp8_quantize(x))
        assert same(one_launch.nvfp4_once(x), nvfp4_quantize(x))
        assert same(one_launch.nvfp4_once(x, hadamard=16), nvfp4_quantize(x, hadamard=16))


def test_the_words_are_zero_again(monkeypatch: pytest.MonkeyPatch) -> None:
    words = torch.zeros(3, dtype=torch.int32, device=DEVICE)
    monkeypatch.setattr(one_launch, "meeting_words", lambda _device: words)
    one_launch.fp8_once(torch.randn(*SHAPES[-1], device=DEVICE))
    assert words.tolist() == [0, 0, 0]


def test_what_does_not_run_at_once_is_refused() -> None:
    with pytest.raises(ValueError, match="do not run at once"):
        one_launch.fp8_once(torch.empty(9000, 1024, dtype=torch.float16, device=DEVICE))


@pytest.mark.gpu
def test_a_captured_launch_has_words_of_its_own() -> None:
    x = torch.randn(16, 8192, device="cuda", dtype=torch.float16)
    eager = one_launch.fp8_once(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = one_launch.fp8_once(x)
    for _again in range(5):
        graph.replay()
        assert same(one_launch.fp8_once(x), eager)
    torch.cuda.synchronize()
    assert same(captured, eager)
