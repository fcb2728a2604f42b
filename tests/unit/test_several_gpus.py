"""Work on a device that is not the current one, and on two at once: the results of one device, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import qkernels
from qbench import Unsupported
from qbench.tensors import map_tensors, same_bits, tensors
from qkernels.format import MXFP4, NVFP4, Format
from qkernels.linear import LinearMXFP4, LinearNVFP4
from qkernels.prepared import prepare, prepared_matmul
from qkernels.prepared_linear import PreparedLinear
from qkernels.triton.fp4_gemm_quantize import nvfp4_gemm_quantize
from qkernels.triton.mxfp4_fold import mxfp4_fold
from tests.every_kernel import QUANTIZERS

DEVICES = torch.cuda.device_count() if torch.cuda.is_available() else 0
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICES < 2, reason=f"needs two CUDA devices, and torch finds {DEVICES}"),
]
Work = Callable[[torch.device], Any]
FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


def normal(rows: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(seed)).bfloat16()


def quantizer(fmt: Format, options: dict[str, Any]) -> Work:
    x = normal(130, 1152)
    return lambda device: qkernels.quantize(x.to(device), fmt, backend="triton", **options)


def product(m: int, n: int, fmt: Format, kind: str) -> Work:
    """kind: the activations of a product by name, or of one with prepared weights."""
    x, w = normal(m, 640), qkernels.quantize(normal(n, 640, 1), fmt, backend="torch")

    def work(device: torch.device) -> Any:
        a, b = x.to(device), w.to(device)
        if kind == "by name":
            return qkernels.matmul(a, b, backend="triton")
        if kind == "w4a16":
            return prepared_matmul(a, prepare(b))
        return prepared_matmul(qkernels.quantize(a, fmt, backend="triton"), prepare(b, "w4a4"))

    return work


def quantizing_product(device: torch.device) -> Any:
    a, b = (qkernels.quantize(normal(m, 640, m), NVFP4, backend="torch").to(device) for m in (40, 192))
    return nvfp4_gemm_quantize(a, b, out_global_scale=torch.tensor(3.0, device=device))


def folded(device: torch.device) -> Any:
    return mxfp4_fold(normal(33, 1024).to(device)).rows


def layer(kind: Any, activation: str, m: int) -> Work:
    plain = nn.Linear(640, 256, dtype=torch.bfloat16)
    with torch.no_grad():
        plain.weight.copy_(normal(256, 640, 3))
        plain.bias.copy_(normal(1, 256, 4)[0])
    made, x = kind.from_linear(plain, activation=activation), normal(m, 640)
    return lambda device: PreparedLinear(made.to(device))(x.to(device))


WORK: dict[str, Work] = {
    **{f"{fmt.name} {options}": quantizer(fmt, options) for fmt, options in QUANTIZERS},
    **{
        f"{fmt.name} {kind} {m}x{n}": product(m, n, fmt, kind)
        for fmt in (NVFP4, MXFP4)
        for kind in ("by name", "w4a16", "w4a4")
        for m, n in ((1, 256), (40, 4096), (64, 130), (200, 264), (600, 4096))
    },
    "nvfp4 product quantized": quantizing_product,
    "mxfp4 folded": folded,
    **{
        f"{kind.__name__} {activation} {m}": layer(kind, activation, m)
        for kind in (LinearNVFP4, LinearMXFP4)
        for activation in ("w4a16", "w4a4")
        for m in (2, 100)
    },
}


def on(device: torch.device, work: Work) -> Any:
    try:
        out = work(device)
    except Unsupported as problem:
        pytest.skip(str(problem))
    assert {each.device for each in tensors(out)} == {device}
    return out


def at_home(out: Any) -> Any:
    return map_tensors(lambda each: each.cpu(), out)


@pytest.mark.parametrize("name", WORK)
def test_a_device_that_is_not_the_current_one_gives_the_results_of_the_current(name: str) -> None:
    if torch.cuda.get_device_name(FIRST) != torch.cuda.get_device_name(SECOND):
        pytest.skip("two models of GPU take different kernels, whose sums differ in order")
    torch.cuda.set_device(FIRST)
    there = on(SECOND, WORK[name])
    assert torch.cuda.current_device() == 0
    assert same_bits(at_home(there), at_home(on(FIRST, WORK[name])))


def test_both_at_once_give_the_results_of_each_alone() -> None:
    """Queued on both without waiting for either, in turns: workspaces and counters of one device are its own."""
    torch.cuda.set_device(FIRST)
    x, w = normal(600, 2048), qkernels.quantize(normal(4096, 2048, 1), NVFP4, backend="torch")
    operands = {device: (x.to(device), prepare(w.to(device))) for device in (FIRST, SECOND)}

    def products(device: torch.device) -> list[Any]:
        a, p = operands[device]
        return [prepared_matmul(a[:m], p) for m in (1, 40, 600)]

    alone = {device: products(device) for device in operands}
    torch.cuda.synchronize(SECOND)
    torch.cuda.synchronize(FIRST)
    rounds = [(device, products(device)) for _ in range(20) for device in operands]
    assert all(same_bits(out, alone[device]) for device, out in rounds)
