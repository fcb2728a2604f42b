"""Attention of a decoding step: heads that share keys read them once, and find what transformers' attention finds."""

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed; pip install pytest-qbench[models]")

from qbench.model import Decoder
from qbench.model.attention import NAME, grouped
from qkernels import models


def seen_keys(monkeypatch):
    """Shapes of the queries and keys that torch's attention is asked with, and is there a mask?"""
    shapes, attention = [], torch.nn.functional.scaled_dot_product_attention

    def ask(query, key, value, **options):
        shapes.append((tuple(query.shape), tuple(key.shape), options.get("attn_mask") is not None))
        return attention(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", ask)
    return shapes


def decoder(model, batch=3):
    made = Decoder(model, batch=batch, prompt=6, new=4)
    made.prefill()
    return made


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-nemotron-h"])
def test_a_step_reads_the_cache_as_it_is_and_a_prompt_goes_to_the_models_own_attention(preset, monkeypatch):
    model = models.build(preset, device="cpu", dtype=torch.float32)
    heads, shared = model.config.num_attention_heads, model.config.num_key_value_heads
    width = model.config.head_dim
    made = decoder(model)
    shapes = seen_keys(monkeypatch)
    made.decode(2)
    assert shapes and set(shapes) == {((3, shared, heads // shared, width), (3, shared, 16, width), True)}
    shapes.clear()
    made.reset()
    made.prefill()
    assert shapes and {(query, key[2], masked) for query, key, masked in shapes} == {
        ((3, heads, 6, width), 6, False)
    }, "a prompt that begins a text needs no mask"
    shapes.clear()
    model(made.history[:, :2], past_key_values=made.cache)
    assert shapes and all(masked for *_, masked in shapes), "what comes later does"


def test_it_decodes_the_texts_of_transformers_own_attention():
    model = models.build("tiny-llama", device="cpu", dtype=torch.float32)
    ours = decoder(model)
    ours.decode()
    model.set_attn_implementation("eager")
    theirs = decoder(model)
    assert model.config._attn_implementation == "eager", "what somebody chose stays"
    theirs.decode()
    assert torch.equal(ours.tokens, theirs.tokens)
    torch.testing.assert_close(ours.logits, theirs.logits)


class Layer(torch.nn.Module):
    num_key_value_groups = 2
    is_causal = True


@pytest.mark.parametrize("masked", ["for each text", "for all", "for each head", "nowhere"])
@pytest.mark.parametrize("tokens", [1, 3])
def test_it_is_attention(masked, tokens):
    batch, heads, shared, places, width = 2, 4, 2, 7, 8
    query = torch.randn(batch, heads, tokens, width)
    key, value = (torch.randn(batch, shared, places, width) for _ in range(2))
    rows = {
        "for each text": (batch, 1),
        "for all": (1, 1),
        "for each head": (batch, heads),
        "nowhere": (1, 1),
    }
    mask = torch.rand(*rows[masked], tokens, places) < 0.7
    mask[..., 0] = True
    if masked == "nowhere":
        mask[:] = True
    y, weights = grouped(
        Layer(), query, key, value, None if masked == "nowhere" and tokens == 1 else mask, scaling=0.3
    )
    each = [torch.repeat_interleave(tensor, heads // shared, dim=1).double() for tensor in (key, value)]
    scores = (query.double() @ each[0].mT * 0.3).masked_fill(~mask, -torch.inf)
    wanted = (scores.softmax(-1) @ each[1]).transpose(1, 2)
    assert weights is None and y.shape == wanted.shape
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-6)


def test_a_step_under_a_wrong_group_is_seen(monkeypatch):
    """The check of the timing test: heads of one group read another's keys."""
    from qbench.model import attention
    from qbench.model.verify import agrees, decoded, found, text_of, uncached

    def swapped(module, query, key, value, *rest, **options):
        if query.shape[2] == 1:
            query = query.flip(1)
        return grouped(module, query, key, value, *rest, **options)

    monkeypatch.setattr(attention, "grouped", swapped)
    made = Decoder(models.build("tiny-llama", device="cpu", dtype=torch.float32), batch=2, prompt=7, new=5)
    assert made.model.config._attn_implementation == NAME
    seen = decoded(made)
    ids, places = text_of(made, seen)
    assert agrees(found(made, seen), (made.model, ids, places), uncached) is not None
