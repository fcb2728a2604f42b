"""The cache of a causal language model: made once at its full size, filled, emptied, looked into.

transformers' StaticCache serves every layer kind it knows: keys and values of attention [batch, heads, length, head
dim], and the convolution and recurrent states of Mamba layers, which have no length. Its tensors keep their addresses,
which a CUDA graph needs. transformers is imported when a cache is made.

Each of its layers of attention counts its tokens in a tensor of its own, and a step would launch a kernel for each to
add one. Here they share one, `count`, which `forward` moves on.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn


def config_of(model: nn.Module) -> Any:
    """The configuration that transformers keeps at a model; its type is not known here."""
    return model.config


def text_config(model: nn.Module) -> Any:
    """That of the part that writes text, where a model has several."""
    return config_of(model).get_text_config(decoder=True)


def static_cache(model: nn.Module, length: int) -> Any:
    """An empty cache for `length` tokens; its tensors are made by the first forward that uses it.

    It holds a multiple of 16: attention wants masks whose rows are aligned, and pads others in each layer.
    """
    from transformers import StaticCache
    from transformers.cache_utils import StaticLayer

    places = -(-length // 16) * 16
    cache: Any = StaticCache(config=config_of(model), max_cache_len=places)
    cache.count = torch.zeros((), dtype=torch.int64, device=next(model.parameters()).device)
    for index, layer in enumerate(cache.layers):
        if type(layer) is StaticLayer:
            cache.layers[index] = _counted_layer()(places, cache.count)
    return cache


def is_plain(cache: Any) -> bool:
    """Are all its layers keys and values, of all places and in one order? Then one mask is every layer's."""
    return all(isinstance(layer, _counted_layer()) for layer in cache.layers)


@lru_cache
def _counted_layer() -> Any:
    """The class of a static layer whose tokens somebody else counts."""
    from transformers.cache_utils import StaticLayer

    class CountedLayer(StaticLayer):  # type: ignore[misc]
        def __init__(self, places: int, count: Tensor) -> None:
            super().__init__(max_cache_len=places)
            self.cumulative_length = count

        def update(self, keys: Tensor, values: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(keys, values)
            places = torch.arange(keys.shape[-2], device=keys.device) + self.cumulative_length
            self.keys.index_copy_(2, places, keys)
            self.values.index_copy_(2, places, values)
            return self.keys, self.values

    return CountedLayer


def dynamic_cache(model: nn.Module) -> Any:
    """An empty cache that grows; what a forward without any past leaves in it is the reference for the other kind."""
    from transformers import DynamicCache

    return DynamicCache(config=config_of(model))


def cache_argument(model: nn.Module) -> str:
    """`cache`, or `past_key_values` as it was called before (and in transformers 5.17 still is)."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def forward(
    model: nn.Module,
    ids: Tensor,
    *,
    cache: Any = None,
    positions: Tensor | None = None,
    keep: int | Tensor = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Logits [batch, kept, vocabulary] of the last `keep` places of `ids` [batch, tokens], or of the places `keep`.

    positions [1, tokens] are counted from the beginning of the text. mask [1, 1, tokens, places] is added to what
    attention finds; None: what the model makes of the cache.
    """
    options: dict[str, Any] = {"use_cache": cache is not None}
    if mask is not None:
        options["attention_mask"] = mask
    if cache is not None:
        options[cache_argument(model)] = cache
    logits: Tensor = model(input_ids=ids, position_ids=positions, logits_to_keep=keep, **options).logits
    if hasattr(cache, "count"):
        cache.count.add_(ids.shape[1])
    return logits


def attention_layers(cache: Any) -> Iterator[tuple[int, Any]]:
    """Index and layer of those that hold keys and values."""
    for index, layer in enumerate(cache.layers):
        if getattr(layer, "keys", None) is not None:
            yield index, layer


def states(cache: Any) -> Iterator[tuple[str, Tensor]]:
    """Convolution and recurrent states, named by kind and layer: read and written whole at every step."""
    for index, layer in enumerate(cache.layers):
        for kind in ("conv", "recurrent"):
            held = getattr(layer, f"{kind}_states", None)
            values = held.values() if isinstance(held, dict) else held if isinstance(held, list) else [held]
            for each in values:
                if isinstance(each, Tensor):
                    yield f"{kind} state of layer {index}", each


def counters(cache: Any) -> list[Tensor] | None:
    """How many tokens each layer of attention holds, on the device; None where Python counts them."""
    found = []
    for _, layer in attention_layers(cache):
        counted = getattr(layer, "cumulative_length", None)
        if hasattr(layer, "cumulative_length_int") or not isinstance(counted, Tensor):
            return None
        found.append(counted)
    return found


def rewind(cache: Any, length: int) -> bool:
    """Back to `length` tokens: what came after is overwritten by what comes next. False where a layer cannot.

    States of Mamba layers stay where they are, so this repeats the work of the steps and not their results.
    """
    found = counters(cache)
    for each in found or ():
        each.fill_(length)
    return found is not None


def prompt_tokens(vocabulary: int, batch: int, prompt: int, seed: int) -> Tensor:
    """Random tokens [batch, prompt], the same on every device; a row is the same in every batch size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (batch, prompt), generator=generator)
