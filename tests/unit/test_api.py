"""quantize, matmul and the scaled_*_quant functions: names, backends, shapes, and the errors they give."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import qkernels
from qkernels import reference
from qkernels.codec import round_to

BLOCK_FORMATS = [name for name, fmt in qkernels.FORMATS.items() if fmt.block is not None]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_public_names_exist() -> None:
    assert all(hasattr(qkernels, name) for name in qkernels.__all__)
    assert qkernels.FORMATS["nvfp4"] is qkernels.NVFP4
    assert qkernels.FORMATS["mxfp4"] is qkernels.MXFP4


@pytest.mark.parametrize("installed", [True, False])
def test_importing_and_quantizing_on_a_cpu_needs_no_triton(installed: bool) -> None:
    lines = [
        "import sys",
        ""
        if installed
        else "sys.modules['triton'] = None  # what an import finds where Triton does not exist",
        "import torch, qkernels",
        "assert not sys.modules.get('triton')",
        "q = qkernels.quantize(torch.ones(2, 32), 'nvfp4')",
        "qkernels.matmul(torch.ones(2, 32), q)",
        "qkernels.LinearMXFP4.from_linear(torch.nn.Linear(32, 4))(torch.ones(2, 32))",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_a_format_goes_by_its_name(name: str) -> None:
    x = normal(3, 128)
    by_name, by_value = qkernels.quantize(x, name), qkernels.quantize(x, qkernels.FORMATS[name])
    assert by_name.format is by_value.format
    assert torch.equal(by_name.data, by_value.data)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"nvpf4.*known: nvfp4.*mxfp4"):
        qkernels.quantize(normal(2, 32), "nvpf4")
    with pytest.raises(ValueError, match="unknown backend 'cuda'; known: auto, torch, triton"):
        qkernels.quantize(normal(2, 32), "nvfp4", backend="cuda")
    with pytest.raises(ValueError, match="known: auto, torch, triton"):
        qkernels.matmul(normal(2, 32), normal(2, 32), backend="cublas")
    with pytest.raises(TypeError, match="format is a int"):
        qkernels.quantize(normal(2, 32), 4)


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4_abs_max"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_matmul_is_the_float64_product_rounded_once(name: str, dtype: torch.dtype) -> None:
    a, b, bias = normal(5, 64), qkernels.quantize(normal(7, 64, seed=1), name), normal(7, seed=2)
    for left in (a, qkernels.quantize(a, name)):
        out = qkernels.matmul(left, b, bias=bias, out_dtype=dtype, backend="torch")
        assert torch.equal(out, round_to(reference.matmul(left, b, bias=bias), dtype))


@pytest.mark.parametrize("name", [name for name in qkernels.FORMATS if name != "int8"])
def test_every_format_has_a_product_that_is_the_one_of_its_values(name: str) -> None:
    a, b = (qkernels.quantize(normal(rows, 256, seed=rows), name, backend="torch") for rows in (20, 150))
    out = qkernels.matmul(a, b, backend="torch")
    assert torch.equal(out, round_to(reference.matmul(a, b), torch.bfloat16))
    values = a.dequantize(torch.float64) @ b.dequantize(torch.float64).T
    assert torch.allclose(reference.matmul(a, b), values, rtol=1e-12, atol=1e-12)
    size = a.dequantize(torch.float64).abs() @ b.dequantize(torch.float64).abs().T
    assert torch.allclose(reference.magnitude(a, b), size, rtol=0.01)


def test_formats_without_a_kernel_are_refused_by_the_kernels() -> None:
    assert len(qkernels.TRITON_FORMATS) == 20
    for name, fmt in qkernels.FORMATS.items():
        if fmt in qkernels.TRITON_FORMATS:
            continue
        with pytest.raises(ValueError, match=f"no Triton kernel quantizes {name} .*use backend='torch'"):
            qkernels.quantize(normal(2, 128), name, backend="triton")
    a = qkernels.quantize(normal(2, 128), "nvfp4")
    for name in ("nvfp4_2d", "nvfp4_token", "mxfp8", "fp8_block", "int4"):
        b = qkernels.quantize(normal(16, 128), name)
        with pytest.raises(ValueError, match=f"b is {name}; .*use backend='torch'"):
            qkernels.matmul(a, b, backend="triton")
        with pytest.raises(ValueError, match=f"a is {name}; "):
            qkernels.matmul(b, a, backend="triton")


def test_leading_axes_are_kept() -> None:
    q = qkernels.quantize(normal(2, 3, 64), "nvfp4")
    assert q.shape == (2, 3, 64)
    assert q.data.shape == (2, 3, 32)
    assert q.scale.shape == (2, 3, 4)


def test_scaled_fp8_quant_scales() -> None:
    x = normal(3, 40)
    q, scale = qkernels.scaled_fp8_quant(x)
    assert q.dtype == torch.float8_e4m3fn
    assert scale.shape == (1,)
    assert scale.item() == pytest.approx(x.abs().max() / 448)
    q, scale = qkernels.scaled_fp8_quant(x, per_token=True)
    assert scale.shape == (3, 1)
    assert torch.allclose(scale[:, 0], x.abs().amax(1) / 448)
    fixed = torch.tensor([0.01])
    q, scale = qkernels.scaled_fp8_quant(x, fixed)
    assert torch.equal(scale, fixed)
    assert torch.allclose(q.float() * fixed, x.clamp(-4.48, 4.48), rtol=1 / 16, atol=1e-5)
    with pytest.raises(ValueError, match="fp8_token"):
        qkernels.scaled_fp8_quant(x, fixed, per_token=True)


def test_scaled_int8_quant_scales_and_zero_points() -> None:
    x = normal(3, 40) + 1
    q, scale, zero_point = qkernels.scaled_int8_quant(x)
    assert q.dtype == torch.int8
    assert scale.shape == (3, 1)
    assert zero_point is None
    assert bool(((q * scale - x).abs() <= scale / 2 * (1 + 1e-6)).all())
    q, scale, zero_point = qkernels.scaled_int8_quant(x, symmetric=False)
    assert zero_point is not None
    assert zero_point.dtype == torch.int32
    assert zero_point.shape == (3, 1)
    assert bool((((q - zero_point) * scale - x).abs() <= scale * (0.5 + 0.5)).all())
    q, scale, zero_point = qkernels.scaled_int8_quant(x, torch.tensor([0.03]))
    assert scale.shape == (1,)
    assert zero_point is None
    q, scale, zero_point = qkernels.scaled_int8_quant(
        x, torch.tensor([0.03]), zero_point=torch.tensor([-20], dtype=torch.int32), symmetric=False
    )
    assert zero_point is not None
    assert zero_point.item() == -20
    with pytest.raises(ValueError, match="symmetric=False"):
        qkernels.scaled_int8_quant(x, torch.tensor([0.03]), zero_point=torch.tensor([1]))
    with pytest.raises(ValueError, match="zero_point"):
        qkernels.scaled_int8_quant(x, torch.tensor([0.03]), symmetric=False)


def test_arguments_a_format_does_not_take_are_refused() -> None:
    x = normal(2, 32)
    with pytest.raises(ValueError, match="takes no global_scale"):
        qkernels.quantize(x, "mxfp4", global_scale=torch.tensor(1.0))
    with pytest.raises(ValueError, match="not a multiple"):
        qkernels.quantize(normal(2, 40), "mxfp4")
    with pytest.raises(ValueError, match="Hadamard"):
        qkernels.quantize(x, "mxfp4", hadamard=16)
