"""Products whose result is quantized: the epilogue's arithmetic and where it writes, codes that are folded, and what
callers get on a CPU."""

from __future__ import annotations

import torch
from torch import nn

from qbench import Unsupported, poisoned_allocations
from qkernels import LinearMXFP4, LinearNVFP4, QTensor, get_format, quantize, reference
from qkernels.format import MXFP4, NVFP4
from qkernels.prepared import fold, prepare, prepared_matmul_quantized
from qkernels.prepared_linear import PreparedLinear
from qkernels.quantize import quantize as quantize_exactly
from qkernels.triton.mxfp4_fold_codes import fold_codes
from qkernels.triton.mxfp4_folded import fold_rows
from qkernels.triton.quantized_result import TAKES
from tests.encoded_blocks import encoded
from tests.gluon_on_numpy import misplaced
from tests.mutants.helpers import difference, normal


def epilogue() -> None:
    """Blocks of every format of a result are those of the exact quantizer where its arithmetic is exact."""
    y = torch.randint(-96, 97, (8, 64), generator=torch.Generator().manual_seed(0)) * 0.25
    y[:, ::16] = torch.tensor([24.0, -24.0, 12.0, 48.0])  # NVFP4's scales are powers of two
    y = y * torch.exp2(torch.arange(-4.0, 4.0))[:, None]
    y[1, :32], y[2] = 0.0, -0.0
    y[3, 5], y[4, 40] = torch.nan, -torch.inf
    for fmt in TAKES:
        given = torch.tensor(8.0) if fmt.levels == 2 else None
        wrong = difference(encoded(y, fmt, 8.0), quantize_exactly(y, fmt, global_scale=given))
        assert not wrong, f"{fmt.name}: {wrong}"


def epilogue_places() -> None:
    """Every word and scale byte of a result goes where it belongs, once."""
    for columns, rows, piece in ((128, 64, 16), (64, 16, 16)):
        for m, n in ((1, 32), (17, 160), (129, 288)):
            for fmt in (NVFP4, MXFP4):
                wrong = misplaced(m, n, fmt, columns, rows, piece)
                assert not wrong, f"{fmt.name} [{m}, {n}] in [{columns}, {rows}]: {wrong}"


def fold_codes_of() -> None:
    """Codes folded by the kernel are those folded by torch, in rows that fit, and as it rounds in those that do not."""
    g = torch.Generator().manual_seed(1)
    for m, k in ((1, 32), (3, 160), (5, 1056)):
        data = torch.randint(0, 256, (m, k // 2), dtype=torch.uint8, generator=g)
        scale = torch.randint(100, 124, (m, k // 32), dtype=torch.uint8, generator=g)
        if k > 32:
            scale[0, 0], scale[1, 0], scale[2, 1] = 255, 254, 3
            data[1, :16] = 0x80  # zeros, under a large scale
        with poisoned_allocations():
            found = fold_codes(data, scale)
        wanted = fold_rows(QTensor(data, scale, MXFP4, (m, k)), exact=False)
        one, two = found.elements.view(torch.uint8), wanted.elements.view(torch.uint8)
        nan = two & 0x7F == 0x7F
        assert torch.equal(one[~nan], two[~nan]), f"[{m}, {k}]: {int((one != two).sum())} elements are others"
        assert bool((one[nan] & 0x7F == 0x7F).all()), f"[{m}, {k}]: blocks of NaN are numbers"
        assert torch.equal(found.factor, wanted.factor), f"[{m}, {k}]: factors are {found.factor}"


def quantized_products() -> None:
    """Products with a quantized result are the exact product in fp32, quantized; layers hand it on."""
    for name, result, gs in (
        ("nvfp4", "nvfp4", 37.0),
        ("mxfp4", "mxfp4", None),
        ("mxfp4_abs_max", "nvfp4_1l", None),
    ):
        w, x, bias = (
            quantize(normal(64, 96, seed=1), name),
            normal(3, 96, torch.bfloat16),
            torch.arange(64.0) * 0.3,
        )
        xq = quantize(x, name)
        scale = None if gs is None else torch.tensor(gs)
        for activation, left in (("w4a16", x), ("w4a16", xq), ("w4a4", xq)):
            p = prepare(w, activation)
            found = prepared_matmul_quantized(left, p, result, global_scale=scale, bias=bias)
            exact = reference.matmul(left, w, bias=bias).float()
            wrong = difference(found, quantize_exactly(exact, get_format(result), global_scale=scale))
            assert not wrong, f"{name} {activation} to {result}: {wrong}"
    far = quantize(torch.ones(2, 64), "mxfp4_abs_max")
    far.scale[0, 1] -= 20
    values = fold(far).elements.float() * fold(far).factor[:, None] / fold(far).gain
    wanted = far.dequantize()
    wanted[0, 32:] = 0  # 2^-20 of its row's largest
    assert torch.allclose(values, wanted), f"folded are {values}"
    p = prepare(quantize(normal(48, 64), "nvfp4"))
    x = normal(3, 64, torch.bfloat16)
    for name, gs, said in (
        ("mxfp4", None, "N = 48"),
        ("nvfp4", None, "needs a static global_scale"),
        ("nvfp4_1l", 1.0, "a result in nvfp4_1l takes no"),
        ("fp8", None, "not to fp8"),
        ("nvfp4", torch.ones(1).double(), "global_scale is torch.float64"),
    ):
        try:
            prepared_matmul_quantized(x, p, name, global_scale=gs)
        except (ValueError, TypeError, Unsupported) as refusal:
            if said in str(refusal):
                continue
        raise AssertionError(f"a result in {name} under {gs} was taken, or refused without the reason")


def quantized_layers() -> None:
    """A layer's quantized output is its product, quantized; another layer multiplies it as it is, or says why not."""
    torch.manual_seed(0)
    plain, after = nn.Linear(96, 64, dtype=torch.bfloat16), nn.Linear(64, 24, dtype=torch.bfloat16)
    x = normal(6, 96, torch.bfloat16, seed=2).view(2, 3, 96)
    for kind, name, gs in (
        (LinearNVFP4, "nvfp4", 300.0),
        (LinearMXFP4, "mxfp4", None),
        (LinearMXFP4, "mxfp4_abs_max", None),
    ):
        layer, last = kind.from_linear(plain, format=name), kind.from_linear(after, format=name)
        made = PreparedLinear(layer, output=name, output_global_scale=gs)
        hidden = made(x)
        exact = reference.matmul(layer.quantize_input(x), layer.quantized_weight(), bias=layer.bias).float()
        scale = None if gs is None else torch.tensor(gs)
        wanted = quantize_exactly(exact, layer.format, global_scale=scale)
        assert hidden.shape == (2, 3, 64), f"leading axes are lost: {hidden.shape}"
        flat = QTensor(
            hidden.data.view(6, -1), hidden.scale.view(6, -1), hidden.format, (6, 64), hidden.global_scale
        )
        assert not difference(flat, wanted), f"{name}: {difference(flat, wanted)}"
        y = PreparedLinear(last)(hidden)
        wanted_y = reference.matmul(wanted, last.quantized_weight(), bias=last.bias)
        room = wanted_y.abs() * 2.0**-8 * (1 + 2.0**-20) + 1e-30
        assert bool(((y.view(6, 24).double() - wanted_y).abs() <= room).all()), (
            f"{name}: the second layer is off"
        )
        other = PreparedLinear(kind.from_linear(nn.Linear(96, 64, dtype=torch.bfloat16), format=name), output=name,
                               output_global_scale=None if gs is None else 1.0)  # fmt: skip
        other.load_state_dict(made.state_dict())
        assert not difference(other(x.view(6, 96)), wanted), f"{name}: loaded, it gives another output"
        for wrong in (PreparedLinear(kind.from_linear(after, format=name, activation="w4a16")),
                      PreparedLinear(kind.from_linear(after, format=name, hadamard=32)),
                      PreparedLinear(LinearNVFP4.from_linear(after, format="nvfp4_1l") if kind is LinearMXFP4
                                     else LinearMXFP4.from_linear(after))):  # fmt: skip
            try:
                wrong(hidden)
            except (TypeError, ValueError):
                continue
            raise AssertionError(f"{name}: a layer of {wrong.extra_repr()} took it")
