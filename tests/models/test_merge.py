"""Layers of one input become one product, and nothing but time tells."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import torch
from torch import nn

from qkernels.models import CodesLinear, build, swap
from qkernels.models.fast import on_cuda
from qkernels.models.merge import Part, grouped, joined, quantized
from qkernels.models.recipe import RECIPES, Recipe

HOPPER = (9, 0)
NVFP4 = RECIPES["nvfp4-w4a16"]
JOINED = ("fp8", "nvfp4-w4a16", "nvfp4-w4a4", "mxfp4-w4a16", "mxfp4-w4a4")


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers as a Hopper GPU gets them, computed on the CPU."""
    module = sys.modules["qkernels.models.swap"]
    monkeypatch.setattr(module, "fastest", lambda layer, dtype: on_cuda(layer, dtype, HOPPER))


class Block(nn.Module):
    """Queries, keys and values of inputs that may be one."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(64, n, bias=bias) for n in (64, 32, 32))
        self.to(torch.bfloat16).requires_grad_(False)

    def forward(self, x, other=None):
        other = x if other is None else other
        return torch.cat([self.q_proj(x), self.k_proj(other), self.v_proj(other)], -1)


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def test_siblings_are_grouped_where_the_first_was_and_nothing_else():
    names = [
        ("a.q_proj",),
        ("a.o_proj",),
        ("a.k_proj",),
        ("b.q_proj",),
        ("a.v_proj", "c.v_proj"),
        ("up_proj",),
    ]
    assert grouped(names) == [[names[0], names[2]], [names[1]], [names[3]], [names[4]], [names[5]]]


@pytest.mark.parametrize("recipe", JOINED)
def test_a_compiled_model_has_four_products_a_layer_and_the_logits_of_separate_ones(hopper, recipe):
    model, plain = (build("tiny-llama", device="cpu", layers=1) for _ in range(2))
    report = swap(model, recipe)
    swap(plain, recipe, emulate=True)
    assert sum(isinstance(each, Part) for each in model.modules()) == 5
    counted: list[Counter[str]] = []

    def backend(graph, inputs):
        counted.append(Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_function"))
        assert len(list(graph.graph.nodes)[-1].args[0]) == 1, "what layers share must not leave the graph"
        return graph.forward

    ids = torch.arange(10).reshape(2, 5)

    def logits(ids):
        return model(ids, use_cache=False).logits

    with torch.no_grad():
        eager, wanted = logits(ids), plain(ids, use_cache=False).logits
        compiled = torch.compile(logits, backend=backend, fullgraph=True)(ids)
    (found,) = counted
    products = sum(
        count for name, count in found.items() if name.endswith("_product.default") or "_scaled_mm" in name
    )
    assert products == 4
    assert torch.equal(compiled, eager)
    off = float((eager - wanted).norm() / wanted.norm())
    assert off < (0.02 if recipe == "mxfp4-w4a4" else 2e-3)  # folded products are rounded twice
    assert report.bytes_after == sum(layer.bytes_after for layer in report.layers)
    held = [each.held for each in model.modules() if isinstance(each, Part)]
    assert all(each.x is None and each.y is None for each in held)


@pytest.mark.parametrize("bias", [False, True])
def test_inputs_that_differ_or_were_written_to_get_products_of_their_own(hopper, bias):
    """Within two roundings to bf16, 2^-8 each, that fall the other way."""
    block, plain = Block(bias), Block(bias)
    report = swap(block, NVFP4)
    swap(plain, NVFP4, emulate=True)
    assert [layer.backend for layer in report.layers] == ["triton-prepared"] * 3
    x, other = normal(3, 64), normal(3, 64, seed=2)
    torch.testing.assert_close(block(x, other), plain(x, other), rtol=0.01, atol=0.01)
    block.q_proj(x)
    x.mul_(2)
    torch.testing.assert_close(block.k_proj(x), plain.k_proj(x), rtol=0.01, atol=0.01)
    again = [block.q_proj(x), block.q_proj(x), block.q_proj(x)]
    assert torch.equal(again[0], again[2]) and block.v_proj(x).is_contiguous()
    with torch.inference_mode():  # whose tensors count no writes
        torch.testing.assert_close(block(x * 1), plain(x * 1), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("again", ["q_proj", "k_proj"])
def test_where_writes_are_not_counted_a_layer_that_sees_an_input_again_computes_it_again(hopper, again):
    block, plain = Block(), Block()
    swap(block, NVFP4)
    swap(plain, NVFP4, emulate=True)

    def twice(model, x):
        model.k_proj(x)
        x.mul_(2)
        return getattr(model, again)(x)  # of k's own columns again, or of those before

    with torch.inference_mode():
        torch.testing.assert_close(
            twice(block, normal(3, 64)), twice(plain, normal(3, 64)), rtol=0.01, atol=0.01
        )
    compiled = torch.compile(twice, backend="eager", fullgraph=True)
    found = compiled(block, normal(3, 64))
    torch.testing.assert_close(found, twice(plain, normal(3, 64)), rtol=0.01, atol=0.01)


def test_quantized_together_they_have_one_global_scale_and_it_is_that_of_the_largest():
    block = Block()
    block.k_proj.weight *= 8
    (scale,) = {float(each.weight_global_scale) for each in _codes(block)}  # type: ignore[arg-type]
    top = float(block.k_proj.weight.abs().amax())
    assert scale == pytest.approx(448 * 6 / top)
    assert _codes(block)[0].weight.shape == (64, 32)


def test_apart_each_has_its_own_scale_and_nothing_is_joined(hopper):
    block = Block()
    block.k_proj.weight *= 8
    block.v_proj.weight *= 64
    swap(block, NVFP4, together=False)
    assert not any(isinstance(each, Part) for each in block.modules())
    assert len({float(each.weight_global_scale) for each in block.children()}) == 3


def test_one_scale_a_tensor_is_shared_too():
    recipe = Recipe("mine", "fp8", "fp8_token")
    layers = quantized([*Block().children()], recipe, [None] * 3)  # type: ignore[list-item]
    assert len({float(each.weight_scale) for each in layers}) == 1
    whole = joined(layers)
    assert whole is not None and whole.weight.shape == (128, 64) and whole.weight_scale.shape == (1,)


def test_layers_of_two_scales_kinds_or_biases_are_not_joined():
    first, second = Block(), Block()
    second.q_proj.weight *= 2
    alone = [CodesLinear.from_linear(each.q_proj, NVFP4) for each in (first, second)]
    assert joined(alone) is None
    assert joined([alone[0], CodesLinear.from_linear(first.k_proj, RECIPES["mxfp4-w4a16"])]) is None
    biased = CodesLinear.from_linear(Block(bias=True).q_proj, NVFP4)
    biased.weight_global_scale = alone[0].weight_global_scale
    assert joined([alone[0], biased]) is None
    assert joined(alone[:1]) is None and joined(_codes(Block())) is not None


def _codes(block: Block) -> list[CodesLinear]:
    return quantized([*block.children()], NVFP4, [None] * 3)  # type: ignore[list-item]
