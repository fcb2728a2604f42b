"""A row without a dimension of its own, and parameters: what callers may give and the launchers do not see."""

import copy

import pytest
import torch
import triton

import qkernels
from qbench.interpreter import repair
from qkernels.prepared import prepare, prepared_matmul

if triton.knobs.runtime.interpret:
    repair()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = pytest.mark.parametrize("backend", ["torch", "triton"])


def outputs(fmt, k, layout="linear"):
    """Tensors of the shapes that a result of [K] has, as `out=` wants them."""
    found = qkernels.quantize(torch.ones(k, device=DEVICE), fmt, backend="torch", scale_layout=layout)
    given = {"out": found.data, "scale_out": found.scale}
    if found.zero_point is not None:
        given["zero_point_out"] = found.zero_point
    if found.global_scale is not None:
        given["global_scale_out"] = found.global_scale
    return {name: torch.empty_like(each) for name, each in given.items()}


@BACKENDS
@pytest.mark.parametrize(
    "fmt", ["nvfp4", "nvfp4_token", "mxfp4", "fp8", "fp8_token", "fp8_block", "int8_token", "int8_asym"]
)
def test_a_vector_is_a_row_also_where_the_caller_gives_what_is_written(fmt, backend):
    x = torch.linspace(-3, 5, 128, device=DEVICE).to(torch.bfloat16)
    given = outputs(fmt, 128)
    q = qkernels.quantize(x, fmt, backend=backend, **given)
    row = qkernels.quantize(x[None], fmt, backend=backend)
    assert (
        q.data.data_ptr() == given["out"].data_ptr() and q.scale.data_ptr() == given["scale_out"].data_ptr()
    )
    assert torch.equal(q.data.view(torch.uint8), row.data[0].view(torch.uint8))
    assert torch.equal(q.scale.reshape(-1), row.scale.reshape(-1))
    if q.global_scale is not None:
        assert torch.equal(q.global_scale.reshape(-1), row.global_scale.reshape(-1))


@BACKENDS
def test_blocked_scales_of_a_vector_are_written_where_they_should_be(backend):
    x, given = torch.linspace(-3, 5, 128, device=DEVICE), outputs("mxfp4", 128, "blocked")
    q = qkernels.quantize(x, "mxfp4", backend=backend, scale_layout="blocked", **given)
    row = qkernels.quantize(x[None], "mxfp4", backend="torch", scale_layout="blocked")
    assert torch.equal(q.scale, row.scale) and q.scale.data_ptr() == given["scale_out"].data_ptr()


@BACKENDS
def test_a_vector_has_one_global_scale_and_other_shapes_are_refused(backend):
    x = torch.linspace(-3, 5, 64, device=DEVICE)
    one = torch.full((1,), 50.0, device=DEVICE)
    q = qkernels.quantize(x, "nvfp4_token", global_scale=one, backend=backend)
    row = qkernels.quantize(x[None], "nvfp4_token", global_scale=one[None], backend=backend)
    assert torch.equal(q.data, row.data[0]) and q.global_scale.shape == (1,)
    for wrong in (torch.ones(4, 1, device=DEVICE), torch.ones(4, device=DEVICE)):
        with pytest.raises(ValueError, match=r"global.scale.*\[2, 2, 1\]"):
            qkernels.quantize(
                torch.ones(2, 2, 64, device=DEVICE), "nvfp4_token", global_scale=wrong, backend=backend
            )


@BACKENDS
def test_a_zero_point_that_is_no_whole_number_is_refused(backend):
    x = torch.linspace(-3, 5, 64, device=DEVICE)
    with pytest.raises(TypeError, match="zero_point"):
        qkernels.quantize(
            x, "int8_asym", scale=torch.tensor([0.1], device=DEVICE), zero_point=3.5, backend=backend
        )


@BACKENDS
@pytest.mark.parametrize(
    "fmt", ["nvfp4", "nvfp4_token", "fp8", "fp8_token", "int8_asym", "fp8_block", "int4"]
)
def test_what_is_quantized_of_a_parameter_has_no_gradient(fmt, backend):
    if backend == "triton" and fmt == "int4":
        pytest.skip("int4 has no kernel")
    q = qkernels.quantize(torch.nn.Parameter(torch.randn(4, 128, device=DEVICE)), fmt, backend=backend)
    tensors = [each for each in (q.data, q.scale, q.zero_point, q.global_scale) if each is not None]
    assert not any(each.requires_grad for each in tensors)
    copy.deepcopy(q)


def test_a_product_with_such_weights_has_none_either():
    w = qkernels.quantize(torch.nn.Parameter(torch.randn(32, 64)), "nvfp4")
    x = torch.randn(2, 64, dtype=torch.bfloat16)
    assert not qkernels.matmul(x, w).requires_grad and not prepared_matmul(x, prepare(w)).requires_grad
