"""Attention of a single token with heads that share keys: the heads of a group are rows of one product.

transformers repeats keys and values for each head before it asks torch's attention, and under torch.compile does so in
a decoding step, too: Llama-3.1-8B then writes and reads four times its cache at every step, in each layer, which no
engine that serves does. Attention itself is this harness's kernel on a GPU where it takes the shape (attend.py),
otherwise torch's `scaled_dot_product_attention`.

A prompt that begins a text needs no mask beside "no later token", which is what torch's fastest attention takes.
transformers asks the device whether the cache is empty before it leaves the mask out, and never leaves it out while
launches are captured; whoever reads the prompt knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

NAME = "sdpa_grouped"  # as transformers calls attention implementations
_TRITON = find_spec("triton") is not None and torch.version.hip is None  # asked here: a traced step cannot
_beginning = False


def is_grouped(model: nn.Module) -> bool:
    """Is its attention the one below?"""
    return getattr(getattr(model, "config", None), "_attn_implementation", None) == NAME


def group_heads(model: nn.Module) -> nn.Module:
    """The model, decoding so where it asks torch's attention; another one that somebody chose ("eager",
    "flash_attention_2", …) stays. It keeps the implementation: prompts and training are as before."""
    config: Any = getattr(model, "config", None)
    choose: Any = getattr(model, "set_attn_implementation", None)
    if choose is not None and getattr(config, "_attn_implementation", None) == "sdpa":
        from transformers import AttentionInterface, AttentionMaskInterface

        AttentionInterface.register(NAME, grouped)
        AttentionMaskInterface.register(NAME, mask)
        choose(NAME)
    return model


@contextmanager
def from_the_beginning() -> Iterator[None]:
    """What is read within goes into an empty cache."""
    global _beginning
    before, _beginning = _beginning, True
    try:
        yield
    finally:
        _beginning = before


def mask(
    *sizes: Any,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **options: Any,
) -> Tensor | None:
    """transformers' mask for torch's attention, or None where "no later token" is all of it."""
    from transformers.masking_utils import sdpa_mask

    if _beginning and attention_mask is None and local_size is None and allow_is_causal_skip:
        return None
    made: Tensor | None = sdpa_mask(
        *sizes,
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=allow_is_causal_skip,
        **options,
    )
    return made


def grouped(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: [batch, tokens, heads, head dim] of query [batch, heads, tokens, head dim],
    key and value [batch, heads that are shared, places, head dim]. More than one token goes to transformers' own."""
    batch, heads, tokens, _ = query.shape
    of_head = attention_mask is not None and attention_mask.shape[1] != 1
    special = any(options.get(name) is not None for name in ("position_bias", "softcap", "s_aux"))
    if tokens != 1 or key.shape[1] == heads or of_head or special:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        made: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return made
    if _TRITON and query.device.type == "cuda" and not dropout:
        from qbench.model.attend import attend, takes  # Triton is imported where a GPU needs it

        if takes(query, key, value, attention_mask):
            return attend(query, key, value, attention_mask, scaling), None
    rows = query.reshape(batch, key.shape[1], heads // key.shape[1], -1)
    y = torch.nn.functional.scaled_dot_product_attention(
        rows, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )
    return y.reshape(batch, 1, heads, -1), None
