"""Input that no kernel takes is one clear error, and no rows or columns are no error at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qbench import poisoned_allocations
from qkernels import LinearNVFP4, matmul, quantize
from qkernels.format import FORMATS, NVFP4, NVFP4_1L
from qkernels.memory import memory_rows
from qkernels.triton.fp4_gemm import fp4_gemm
from qkernels.triton.fp4_gemm_quantize import nvfp4_gemm_quantize
from qkernels.triton.fp8_block import fp8_block_quantize
from qkernels.triton.fp8_quantize import fp8_quantize
from qkernels.triton.int8_quantize import int8_quantize
from qkernels.triton.mxfp4_quantize import mxfp4_quantize
from qkernels.triton.nvfp4_quantize import nvfp4_quantize
from tests.mutants.helpers import certified, normal

Call = Callable[[], Any]


def refusals() -> None:
    """Each of these would otherwise give numbers, of something else."""
    x = normal(4, 64)
    for what, call, words in (*_of_quantizers(x), *_of_products(x), *_of_references(x)):
        try:
            call()
        except (TypeError, ValueError) as error:
            said = str(error)
        else:
            raise AssertionError(f"{what} was taken without an error")
        assert words in said, f"{what}: the error says {said!r}, expected {words!r} in it"
    with poisoned_allocations():
        _empty()


def _of_quantizers(x: Tensor) -> list[tuple[str, Call, str]]:
    quantizers: dict[str, Callable[..., Any]] = {
        "nvfp4": nvfp4_quantize, "mxfp4": mxfp4_quantize, "fp8": fp8_quantize,
        "fp8_token": lambda x: fp8_quantize(x, per_token=True), "int8_token": int8_quantize,
    }  # fmt: skip
    made: list[tuple[str, Call, str]] = []
    for name, kernel in quantizers.items():
        made += [
            (f"{name} of a transposed matrix", lambda k=kernel: k(normal(64, 64).T), ".contiguous()"),
            (f"{name} of float64", lambda k=kernel: k(x.double()), "float64"),
            (f"{name} of one row without its axis", lambda k=kernel: k(x[0]), "[M, K]"),
            (f"{name} of K = 0", lambda k=kernel: k(x[:, :0]), "K must be at least one"),
        ]
    for value in (0.0, -1.0, math.nan, math.inf):
        made += [
            (
                f"global scale {value}",
                lambda v=value: nvfp4_quantize(x, global_scale=v),
                "not a finite number > 0",
            ),
            (f"FP8 scale {value}", lambda v=value: fp8_quantize(x, v), "not a finite number > 0"),
            (f"INT8 scale {value}", lambda v=value: int8_quantize(x, v), "not a finite number > 0"),
        ]
    one = torch.ones(1)
    return [
        *made,
        ("NVFP4 of K = 40", lambda: nvfp4_quantize(normal(2, 40)), "not a multiple of the block 16"),
        ("MXFP4 of K = 48", lambda: mxfp4_quantize(normal(2, 48)), "not a multiple of the block 32"),
        ("rotation by 128 of 4 rows of 64", lambda: nvfp4_quantize(x, hadamard=128), "multiple of the Hadamard"),
        ("rotation by 64 of 2 rows of 96", lambda: mxfp4_quantize(normal(2, 96), hadamard=64), "Hadamard size 64"),
        ("MXFP4 rotated by 16", lambda: mxfp4_quantize(x, hadamard=16), "known: 32, 64, 128"),
        ("an unknown rule", lambda: mxfp4_quantize(x, rule="flor"), "known: floor"),
        ("a global scale in fp16", lambda: nvfp4_quantize(x, global_scale=one.half()), "one float32 value"),
        ("two global scales", lambda: nvfp4_quantize(x, global_scale=torch.ones(2)), "one float32 value"),
        ("a global scale with one level", lambda: nvfp4_quantize(x, global_scale=one, fmt=NVFP4_1L), "one scale"),
        *_of_outputs(x),
        ("a static scale per token", lambda: fp8_quantize(x, 0.1, per_token=True), "per tensor"),
        ("a zero point in float", lambda: int8_quantize(x, 0.1, zero_point=one, symmetric=False), "int32"),
        ("a zero point of 2^23", lambda: int8_quantize(x, 0.1, zero_point=1 << 23, symmetric=False), "beyond 2"),
        ("a zero point when symmetric", lambda: int8_quantize(x, 0.1, zero_point=3), "symmetric is True"),
        ("no zero point when asymmetric", lambda: int8_quantize(x, 0.1, symmetric=False), "together"),
    ]  # fmt: skip


def _of_outputs(x: Tensor) -> list[tuple[str, Call, str]]:
    codes = torch.empty(4, 64, dtype=torch.float8_e4m3fn)
    shared = torch.zeros(4, 256, dtype=torch.uint8)
    same = shared[:, :128].view(torch.float16)
    within = shared.view(-1)[64:320].view(torch.int8).view(4, 64)
    square = torch.empty(64, 64, dtype=torch.float8_e4m3fn)
    return [
        ("FP8 into int8", lambda: fp8_quantize(x, out=codes.view(torch.int8)), "pass one of torch.float8_e4m3fn"),
        ("FP8 into fewer rows", lambda: fp8_quantize(x, out=codes[:3]), "pass one of [4, 64]"),
        ("FP8 into a transposed matrix", lambda: fp8_quantize(normal(64, 64), out=square.T), "contiguous"),
        ("a scale into a wrong place", lambda: fp8_quantize(x, scale_out=torch.empty(4, 1)), "pass one of [1]"),
        ("INT8 in place", lambda: int8_quantize(same, out=within), "shares memory"),
        ("a static scale to be written", lambda: fp8_quantize(x, 0.1, scale_out=torch.empty(1)), "leave scale_out out"),
        ("a static INT8 scale to be written", lambda: int8_quantize(x, 0.1, scale_out=torch.empty(1)), "scale_out out"),
        ("a zero point to be written, symmetric",
         lambda: int8_quantize(x, zero_point_out=torch.empty(4, 1, dtype=torch.int32)), "leave zero_point_out out"),
        ("blocks of 64 rows", lambda: fp8_block_quantize(normal(4, 128), rows=64), "use 1 (activations) or 128"),
        ("FP8 blocks of K = 192", lambda: fp8_block_quantize(normal(4, 192)), "not a multiple of the block 128"),
    ]  # fmt: skip


def _of_products(x: Tensor) -> list[tuple[str, Call, str]]:
    a, b = certified(4, 64, NVFP4, 1), certified(8, 64, NVFP4, 2)
    rotated = quantize(x, NVFP4, hadamard=32)
    gs = torch.ones(1)
    return [
        ("operands of another rotation", lambda: fp4_gemm(rotated, b), "rotate both alike"),
        ("operands of another K", lambda: fp4_gemm(normal(4, 32), b), "same K"),
        ("NVFP4 with MXFP4", lambda: fp4_gemm(quantize(x, "mxfp4"), b), "quantize both"),
        ("an FP8 weight", lambda: fp4_gemm(x, quantize(x, "fp8")), "NVFP4"),
        ("float64 activations", lambda: fp4_gemm(x.double(), b), "float64"),
        ("transposed activations", lambda: fp4_gemm(normal(64, 4).T, b), ".contiguous()"),
        ("a bias of another length", lambda: fp4_gemm(x, b, bias=torch.ones(7)), "[8]"),
        ("an int32 output", lambda: fp4_gemm(x, b, out_dtype=torch.int32), "bfloat16"),
        (
            "a quantized result of N = 8",
            lambda: nvfp4_gemm_quantize(a, b, out_global_scale=gs),
            "multiple of 16",
        ),
        (
            "an output scale in fp16",
            lambda: nvfp4_gemm_quantize(a, certified(16, 64, NVFP4, 2), out_global_scale=gs.half()),
            "one float32",
        ),
    ]


def _of_references(x: Tensor) -> list[tuple[str, Call, str]]:
    layer = torch.nn.Linear(64, 8)
    return [
        ("NVFP4 of K = 40", lambda: quantize(normal(2, 40), "nvfp4"), "not a multiple"),
        ("rotation by 128 of 4 rows of 64", lambda: quantize(x, "nvfp4", hadamard=128), "Hadamard size 128"),
        ("a negative static scale", lambda: quantize(x, "fp8", scale=-0.1), "finite number > 0"),
        ("a static scale in fp16", lambda: quantize(x, "fp8", scale=torch.ones(1).half()), "float32"),
        ("INT8 without a scale", lambda: quantize(x, "int8"), "static"),
        ("a bias of another length", lambda: matmul(x, x, bias=torch.ones(7)), "[4]"),
        ("an unknown backend", lambda: quantize(x, "nvfp4", backend="trition"), "known: auto"),
        ("a layer's input of K = 32", lambda: LinearNVFP4.from_linear(layer)(x[:, :32]), "K = 32"),
        ("a layer with K = 40", lambda: LinearNVFP4(40, 8), "not a multiple"),
        ("memory of K = 40", lambda: memory_rows([(8, 40)], [NVFP4]), "not a multiple"),
    ]


def _empty() -> None:
    """M = 0 and N = 0 give empty results, by every kernel."""
    none = torch.zeros(0, 64)
    for fmt, made in (
        ("nvfp4", lambda: nvfp4_quantize(none)),
        ("nvfp4_1l", lambda: nvfp4_quantize(none, fmt=NVFP4_1L)),
        ("nvfp4", lambda: nvfp4_quantize(none, hadamard=32)),
        ("mxfp4", lambda: mxfp4_quantize(none)),
        ("fp8", lambda: fp8_quantize(none)),
        ("fp8_token", lambda: fp8_quantize(none, per_token=True)),
        ("int8_token", lambda: int8_quantize(none)),
        ("int8_asym", lambda: int8_quantize(none, symmetric=False)),
    ):
        q = made()
        wanted = quantize(none, fmt)
        assert q.dequantize().shape == (0, 64), f"{fmt} of no rows has shape {q.shape}"
        assert q.scale.shape == wanted.scale.shape, f"{fmt} of no rows has scales {list(q.scale.shape)}"
        gs = q.global_scale
        assert gs is None or float(gs) == 1.0, f"{fmt} of no rows has the global scale {gs}"
    b = certified(8, 64, NVFP4_1L, 1)
    assert fp4_gemm(none.bfloat16(), b).shape == (0, 8)
    assert fp4_gemm(normal(3, 64), b.rows(0, 0)).shape == (3, 0)
    wide = certified(16, 64, FORMATS["mxfp4"], 1)
    empty = nvfp4_gemm_quantize(none, wide, out_global_scale=torch.ones(1))
    assert empty.shape == (0, 16), f"a quantized product of no rows has shape {empty.shape}"
