"""One layer at a time: the sensitive one is found, the model is as before, and a skip list from it helps."""

import dataclasses

import pytest

pytest.importorskip("transformers", reason="the extra `models` is not installed")

import torch
from torch import nn

from qbench.model.accuracy import windows
from qbench.model.tiny import load_tiny
from qkernels import models
from qkernels.models import sensitivity as module
from qkernels.models.layer_time import layer_seconds
from qkernels.models.sensitivity import sensitivity
from qkernels.models.sensitivity_plot import plot_png


@pytest.fixture
def model():
    return load_tiny(dtype="float32")[0]


@pytest.fixture(scope="module")
def parts():
    _, tokenizer, problems = load_tiny(dtype="float32")
    text = "\n".join(f"Question: {p.question}\nAnswer: {p.answer}" for p in problems[:8])
    return windows(tokenizer(text).input_ids, length=96)


def test_the_layer_that_costs_most_is_found_and_skipping_it_helps(model, parts):
    """A layer whose weight has one huge outlier a block loses all else in four bits."""
    worst = model.get_submodule("model.layers.1.mlp.up_proj")
    with torch.no_grad():
        worst.weight[:, ::32] *= 200.0
        model.get_submodule("model.layers.1.post_attention_layernorm").weight[::32] /= (
            200.0  # the same function
        )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = sensitivity(model, "mxfp4-w4a16", parts)
    assert found.worst(1) == found.skip_for(0.0001) == ("model.layers.1.mlp.up_proj",)
    assert found.layers[0].kl_low > found.layers[1].kl_high
    assert len(found.layers) == 14 and found.skip_for(1.0) == found.worst(14) and found.skip_for(0.0) == ()
    recipe = models.RECIPES["mxfp4-w4a16"]
    kept = dataclasses.replace(recipe, skip=(*recipe.skip, *found.worst(1)))
    less = sensitivity(model, kept, parts)
    assert len(less.layers) == 13 and less.whole < 0.5 * found.whole
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_the_model_is_put_back_even_when_measuring_fails(model, parts, monkeypatch):
    def fail(*args):
        raise RuntimeError("no")

    monkeypatch.setattr(module, "divergence_from", fail)
    with pytest.raises(RuntimeError, match="no"):
        sensitivity(model, "int8", parts)
    assert not any(isinstance(each, models.CodesLinear) for each in model.modules())
    assert sum(isinstance(each, nn.Linear) for each in model.modules()) == 15


def test_time_is_asked_once_for_each_shape_and_table_and_plot_show_it(model, parts):
    pytest.importorskip("matplotlib")
    asked = []

    def time(layer):
        asked.append((layer.out_features, layer.in_features, isinstance(layer, nn.Linear)))
        return 3e-6 if isinstance(layer, nn.Linear) else 1e-6

    found = sensitivity(model, "int8", parts, time=time)
    assert sorted(set(asked)) == sorted(asked) and len(asked) == 6  # three shapes, before and after
    assert all(cost.gained_s == pytest.approx(2e-6) for cost in found.layers)
    lines = found.table().splitlines()
    assert len(lines) == 16 and all(line.endswith("2.00") for line in lines[1:15])
    assert lines[1].split()[0] == found.worst(1)[0] and "all together" in lines[-1]
    timed = plot_png(found)
    untimed = plot_png(dataclasses.replace(found, layers=found.layers[:3]), rows=2)
    assert timed[:8] == untimed[:8] == b"\x89PNG\r\n\x1a\n" and timed != untimed


def test_a_recipe_that_quantizes_nothing_is_refused(model, parts):
    with pytest.raises(ValueError, match="quantizes no layer"):
        sensitivity(model, "bf16", parts)
    found = module.Sensitivity("x", 1, (), 0.0)
    with pytest.raises(ValueError, match="share"):
        found.skip_for(2.0)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_larger_layer_takes_longer(device):
    small, large = (nn.Linear(size, size, device=device) for size in (256, 4096))
    assert 0 < layer_seconds(small) < layer_seconds(large)
