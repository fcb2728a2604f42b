"""LinearNVFP4 and LinearMXFP4: what forward computes, what is stored, and what is refused."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from qkernels import LinearMXFP4, LinearNVFP4, quantize, reference
from qkernels.codec import round_to
from qkernels.hadamard import rotate
from qkernels.linear import QuantizedLinear

LAYERS = [LinearNVFP4, LinearMXFP4]


def dense(k: int = 128, n: int = 48, bias: bool = True, dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(k, n, bias=bias, dtype=dtype)


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["w4a4", "w4a16"])
@pytest.mark.parametrize("hadamard", [None, 32, 128])
@pytest.mark.parametrize("kind", LAYERS)
def test_forward_is_rotate_quantize_multiply_add(
    kind: type[QuantizedLinear], hadamard: int | None, activation: str, bias: bool
) -> None:
    linear, x = dense(bias=bias), normal(5, 128).bfloat16()
    layer = kind.from_linear(linear, hadamard=hadamard, activation=activation)
    w = quantize(linear.weight.detach(), layer.format, hadamard=hadamard)
    if activation == "w4a4":
        a = quantize(x, layer.format, hadamard=hadamard)
    else:
        a = x if hadamard is None else rotate(x, hadamard).bfloat16()
    expected = round_to(reference.matmul(a, w, bias=layer.bias), torch.bfloat16)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("activation", ["w4a4", "w4a16"])
@pytest.mark.parametrize("hadamard", [None, 32, 64, 128])
@pytest.mark.parametrize("kind", LAYERS)
def test_output_is_near_the_dense_layer(
    kind: type[QuantizedLinear], hadamard: int | None, activation: str
) -> None:
    """A rotation of one side alone would give an unrelated output: an error near 1.4 instead of 0.1 to 0.2."""
    linear, x = dense(k=256, n=64, dtype=torch.float32), normal(32, 256)
    y, out = linear(x), kind.from_linear(linear, hadamard=hadamard, activation=activation)(x)
    assert ((out - y).norm() / y.norm()).item() < 0.25


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(128,), (1, 128), (0, 128), (2, 3, 128), (2, 0, 128)])
def test_leading_axes_and_dtype_are_the_inputs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    layer = LinearNVFP4.from_linear(dense())
    out = layer(normal(*shape).to(dtype))
    assert out.shape == (*shape[:-1], 48)
    assert out.dtype == dtype
    assert not out.requires_grad


def test_any_strides_of_the_input_give_the_same_output() -> None:
    layer, x = LinearMXFP4.from_linear(dense()), normal(6, 128).bfloat16()
    assert torch.equal(layer(x.T.contiguous().T), layer(x))
    assert torch.equal(layer(x[::2]), layer(x[::2].contiguous()))


@pytest.mark.parametrize(("kind", "options"), [
    (LinearNVFP4, {"global_scale": 500.0}), (LinearNVFP4, {"activation": "w4a16"}),
    (LinearNVFP4, {"format": "nvfp4_1l"}),
    (LinearMXFP4, {}), (LinearMXFP4, {"hadamard": 32}),
])  # fmt: skip
def test_rows_do_not_depend_on_their_batch(kind: type[QuantizedLinear], options: dict[str, object]) -> None:
    layer, x = kind.from_linear(dense(), **options), normal(8, 128) * torch.logspace(-2, 1, 8).unsqueeze(1)
    assert torch.equal(torch.cat([layer(row.unsqueeze(0)) for row in x]), layer(x))


def test_a_dynamic_global_scale_makes_rows_depend_on_their_batch() -> None:
    """What the docstring warns of; if this fails, the warning can go."""
    layer, x = LinearNVFP4.from_linear(dense()), normal(8, 128) * torch.logspace(-2, 1, 8).unsqueeze(1)
    assert not torch.equal(torch.cat([layer(row.unsqueeze(0)) for row in x]), layer(x))


@pytest.mark.parametrize("options", [{}, {"hadamard": 32}, {"global_scale": 300.0}])
def test_state_dict_round_trip(options: dict[str, object]) -> None:
    linear, x = dense(), normal(4, 128).bfloat16()
    layer = LinearNVFP4.from_linear(linear, **options)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh = LinearNVFP4(
        128, 48, hadamard=options.get("hadamard"), static_global_scale="global_scale" in options
    )
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(x), layer(x))
    assert all(isinstance(value, torch.Tensor) for value in layer.state_dict().values())
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_weights_of_another_rotation_or_rule_are_refused() -> None:
    state = LinearMXFP4.from_linear(dense(), hadamard=32).state_dict()
    with pytest.raises(ValueError, match="hadamard=32, this layer mxfp4, hadamard=None"):
        LinearMXFP4(128, 48).load_state_dict(state)
    with pytest.raises(ValueError, match="this layer mxfp4_abs_max"):
        LinearMXFP4(128, 48, hadamard=32, format="mxfp4_abs_max").load_state_dict(state)


@pytest.mark.parametrize("change", [nn.Module.half, nn.Module.bfloat16, lambda m: m.to(torch.float16)])
def test_changing_the_dtype_leaves_weights_and_scales_alone(change: object) -> None:
    layer = LinearNVFP4.from_linear(dense(), global_scale=333.3)
    x, before = normal(4, 128).half(), copy.deepcopy(layer.state_dict())
    before_output = layer(x)
    assert callable(change)
    change(layer)
    for name, value in layer.state_dict().items():
        if name != "bias":
            assert value.dtype == before[name].dtype, name
            assert torch.equal(value, before[name]), name
    assert torch.allclose(layer(x), before_output, rtol=2e-2, atol=2e-2)


def test_layers_move_between_devices() -> None:
    layer = LinearNVFP4.from_linear(dense(), global_scale=2.0).to("meta")
    assert {buffer.device.type for buffer in layer.buffers()} == {"meta"}


@pytest.mark.parametrize("kind", LAYERS)
def test_memory_is_what_the_format_says(kind: type[QuantizedLinear]) -> None:
    layer = kind.from_linear(dense(k=1024, n=256))
    assert layer.memory_bytes() == layer.format.nbytes((256, 1024))
    assert 3.5 < 2 * 256 * 1024 / layer.memory_bytes() < 3.8


def test_repr_says_what_the_layer_is() -> None:
    text = repr(LinearNVFP4.from_linear(dense(), hadamard=16, global_scale=9.0))
    for part in ("in_features=128", "out_features=48", "nvfp4", "hadamard=16", "w4a4", "static"):
        assert part in text


def test_bad_arguments_name_the_value_and_the_remedy() -> None:
    with pytest.raises(ValueError, match="unknown activation 'w8a8'; known: w4a4, w4a16"):
        LinearNVFP4.from_linear(dense(), activation="w8a8")
    with pytest.raises(ValueError, match="mxfp4"):
        LinearMXFP4.from_linear(dense(), global_scale=1.0)
    with pytest.raises(ValueError, match="w4a16"):
        LinearNVFP4.from_linear(dense(), activation="w4a16", global_scale=1.0)
    with pytest.raises(ValueError, match="not a finite number"):
        LinearNVFP4.from_linear(dense(), global_scale=-1.0)
    with pytest.raises(ValueError, match="K = 40 is not a multiple"):
        LinearMXFP4.from_linear(dense(k=40))
    with pytest.raises(ValueError, match="in_features = 40"):
        LinearMXFP4(40, 8)
    with pytest.raises(ValueError, match="Hadamard size 48"):
        LinearMXFP4(96, 8, hadamard=48)
    with pytest.raises(ValueError, match="use the layer made for it"):
        LinearNVFP4.from_linear(dense(), format="mxfp4")
    with pytest.raises(ValueError, match="input has K = 64"):
        LinearNVFP4.from_linear(dense())(normal(2, 64))
