"""Linear layers against their parts multiplied in float64, and bytes against numbers worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qkernels import FORMATS, LinearMXFP4, LinearNVFP4, get_format, quantize, rotate
from qkernels.memory import memory_rows, memory_table
from tests.mutants.helpers import normal

BYTES = {  # of a weight [4096, 4096]: codes, then scales, then global scale
    "nvfp4": 8388608 + 1048576 + 4,
    "nvfp4_1l": 8388608 + 1048576,
    "mxfp4": 8388608 + 524288,
    "fp8": 16777216 + 4,
    "fp8_token": 16777216 + 4 * 4096,
    "int8_token": 16777216 + 4 * 4096,
    "int8_asym": 16777216 + 8 * 4096,
}


def linear() -> None:
    """rotate -> quantize -> product * alpha + bias, one rounding, for each kind of layer, rotation and activation."""
    plain = nn.Linear(64, 24, dtype=torch.bfloat16)
    with torch.no_grad():
        plain.weight.copy_(normal(24, 64, seed=1))
        plain.bias.copy_(torch.arange(24.0) * 3 - 20)
    x = normal(6, 64, torch.bfloat16, seed=2)
    for kind in (LinearNVFP4, LinearMXFP4):
        for had in (None, 32):
            for activation in ("w4a4", "w4a16"):
                layer = kind.from_linear(plain, hadamard=had, activation=activation)
                fmt = layer.format
                weight = quantize(plain.weight.detach(), fmt, hadamard=had).dequantize(torch.float64)
                _judge(
                    layer, x, _operand(x, fmt.name, had, activation), weight, f"{fmt.name} {had} {activation}"
                )
    gs = 448.0 * 6 / 20
    layer = LinearNVFP4.from_linear(plain, global_scale=gs)
    weight = quantize(plain.weight.detach(), "nvfp4").dequantize(torch.float64)
    operand = quantize(x, "nvfp4", global_scale=gs).dequantize(torch.float64)
    _judge(layer, x, operand, weight, "static global scale")
    _judge(layer.half().bfloat16(), x, operand, weight, "global scales after .half()")
    assert torch.equal(layer(x)[2:3], layer(x[2:3])), "with a static scale a row depends on its batch"
    assert layer(x.reshape(2, 3, 64)).shape == (2, 3, 24), "leading axes are lost"
    assert torch.equal(layer(x.T.contiguous().T), layer(x)), "a transposed input gives another result"
    assert layer.memory_bytes() == 24 * 32 + 24 * 4 + 4, f"the layer takes {layer.memory_bytes()} bytes"
    _saved(layer, plain)


def _operand(x: Tensor, name: str, had: int | None, activation: str) -> Tensor:
    if activation == "w4a4":
        return quantize(x, name, hadamard=had).dequantize(torch.float64)
    return (x if had is None else rotate(x, had, x.dtype)).double()


def _judge(layer: nn.Module, x: Tensor, operand: Tensor, weight: Tensor, what: str) -> None:
    bias = layer.bias.double()
    assert isinstance(bias, Tensor)
    wanted = operand @ weight.T + bias
    found = layer(x)
    assert found.dtype == x.dtype, f"{what}: output is {found.dtype}"
    room = wanted.abs() * 2.0**-8 + (operand.abs() @ weight.abs().T) * 1e-6  # one rounding to bf16
    bad = ~((found.double() - wanted).abs() <= room)
    assert not bool(bad.any()), f"{what}: {int(bad.sum())} of {bad.numel()} outputs are off"


def _saved(layer: LinearNVFP4, plain: nn.Linear) -> None:
    """A state dict of another rotation is refused: it would decode to something else."""
    other = LinearNVFP4.from_linear(plain, hadamard=16)
    try:
        layer.load_state_dict(other.state_dict(), strict=False)
    except (RuntimeError, ValueError):
        return
    raise AssertionError("weights of another rotation were loaded")


def memory() -> None:
    """Bytes of a weight in each format; an MXFP4 weight saves 73.4% whatever its rotation."""
    for name, wanted in BYTES.items():
        found = get_format(name).nbytes((4096, 4096))
        assert found == wanted, f"{name} [4096, 4096] takes {found} bytes, expected {wanted}"
        (row,) = memory_rows([(4096, 4096)], [get_format(name)])
        assert (row.n, row.k, row.bytes, row.plain_bytes) == (4096, 4096, wanted, 2 * 4096 * 4096), f"{row}"
        assert abs(row.saving - (1 - wanted / 33554432)) < 1e-12, f"{name} saves {row.saving}"
        assert abs(row.ratio - 33554432 / wanted) < 1e-12, f"{name} is {row.ratio} times smaller"
    assert "73.4%" in memory_table(memory_rows([(4096, 4096)], [FORMATS["mxfp4"]]))
    for name, bits in (("nvfp4", 4.5), ("mxfp4", 4.25), ("fp8", 8.0), ("fp8_token", 8 + 32 / 4096)):
        found = get_format(name).bits_per_element(4096)
        assert found == bits, f"{name}: {found} bits per element, expected {bits}"
    assert get_format("nvfp4").nbytes((3, 5, 64)) == 480 + 60 + 4, "leading axes are counted wrongly"
