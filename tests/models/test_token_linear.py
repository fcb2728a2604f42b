"""A layer whose inputs have a global scale for each token is one product, whatever the number of tokens."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from qbench import gemm_error, within
from qkernels import reference
from qkernels.models import RECIPES, CodesLinear, Recipe
from qkernels.models.fast import TokenLinear, nvfp4_token_rows, on_cuda
from qkernels.models.merge import joined, parts, quantized

PLAIN = RECIPES["nvfp4-w4a4"]
ROTATED = dataclasses.replace(PLAIN, name="rotated", hadamard=16)
recipes = pytest.mark.parametrize("recipe", [PLAIN, ROTATED], ids=lambda recipe: recipe.name)
biased = pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])


def layer(recipe: Recipe, k: int, n: int, bias: bool, device: str = "cpu") -> CodesLinear:
    torch.manual_seed(0)
    return CodesLinear.from_linear(nn.Linear(k, n, bias, torch.device(device), torch.bfloat16), recipe)


def tokens(m: int, k: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Each token of another size, over 2^16."""
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(m))
    return (x * torch.exp2(torch.arange(float(m)) * 7 % 17 - 8)[:, None]).to(dtype)


def fast(plain: CodesLinear) -> TokenLinear:
    made = on_cuda(plain, torch.bfloat16, (9, 0)).module
    assert isinstance(made, TokenLinear)
    return made


def rounded_once(y: torch.Tensor, plain: CodesLinear, x: torch.Tensor) -> bool:
    """Against the product of the input as it is quantized, in float64."""
    a, w, kind = plain.quantize_input(x), plain.quantized_weight(), torch.finfo(y.dtype)
    wanted = reference.matmul(a, w, bias=plain.bias)
    room = (
        wanted.abs().clamp(min=kind.tiny) * kind.eps / 2 * (1 + 2.0**-20)
        + reference.magnitude(a, w) * 2.0**-44
    )
    return bool(((y.double() - wanted).abs() <= room).all())


@recipes
@biased
@pytest.mark.parametrize("m", [1, 7, 129, 300])
def test_any_number_of_tokens_is_rounded_once(m: int, bias: bool, recipe: Recipe) -> None:
    plain = layer(recipe, 96, 24, bias)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x = tokens(m, 96, dtype)
        y = fast(plain)(x)
        assert y.dtype == dtype
        assert rounded_once(y, plain, x)


def test_leading_axes_stay_and_one_graph_is_kept() -> None:
    made, x = fast(layer(PLAIN, 96, 24, True)), tokens(6, 96)
    y = made(x)
    assert torch.equal(made(x.view(2, 3, 96)), y.view(2, 3, 24))
    torch.compiler.reset()
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), y)
    assert torch.equal(compiled(x[:1]), y[:1])


def test_layers_that_are_joined_give_what_each_gives() -> None:
    torch.manual_seed(0)
    linears = [nn.Linear(96, n, True, dtype=torch.bfloat16) for n in (24, 8, 40)]
    alone = quantized(linears, PLAIN, [None] * 3)
    whole = joined(alone)
    assert whole is not None
    x = tokens(130, 96)
    for part, each in zip(parts(on_cuda(whole, torch.bfloat16, (9, 0)), alone), alone, strict=True):
        assert torch.equal(part.module(x), fast(each)(x))


@pytest.mark.gpu
@recipes
@biased
@pytest.mark.parametrize("m", [1, 7, 64, 65, 128, 129, 300])
def test_on_a_gpu_it_is_the_product_and_weights_are_not_unpacked(
    m: int, bias: bool, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qkernels.triton import prepared_product

    def unpacked(*_: object) -> None:
        raise AssertionError("the weights are unpacked")

    if torch.cuda.get_device_capability()[0] == 9 or m <= prepared_product.MAX_ROWS:
        monkeypatch.setattr(prepared_product, "fp4_unpack", unpacked)
    plain = layer(recipe, 4096, 520, bias, "cuda")
    made, x = (
        on_cuda(plain, torch.bfloat16, torch.cuda.get_device_capability()).module,
        tokens(m, 4096).cuda(),
    )
    assert isinstance(made, TokenLinear)
    rows, tops = nvfp4_token_rows(
        x, recipe.hadamard or 0
    )  # the layer's own: codes at ties depend on who quantizes
    a, w = rows.double() / tops.double(), plain.quantized_weight()
    y = reference.matmul(a, w, bias=plain.bias)
    assert within(made(x), y, gemm_error(y, reference.magnitude(a, w), 4096)) is None
    torch.compiler.reset()
    assert torch.equal(torch.compile(made, fullgraph=True)(x), made(x))
