"""The least work of a prefill and of a block of decoding steps: bytes that must move, flops that must be done.

Bytes: every parameter and buffer once a pass (of embedding tables the rows of its tokens), the keys and values that
attention reads and writes, and the states of Mamba layers, read and written. Counted on the model as it is run, so
packed weights count as packed. Flops: two for each weight of a matrix and token, and attention's two products; counted
before the weights are packed. What a mixture of experts leaves out is not left out here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from qbench.case import Cost
from qbench.model.cache import attention_layers, states, text_config
from qbench.result import Ceilings
from qbench.tensors import tensors


@dataclass(frozen=True)
class Matrices:
    """Elements of all weight matrices but embeddings: those of every token, and those of the output head."""

    body: int
    head: int


def matrices(model: nn.Module) -> Matrices:
    """Counted before anything is packed; a head that shares its weight with the embedding is a matrix too."""
    find: Any = getattr(model, "get_output_embeddings", None)
    output = find() if find else None
    head = output.weight.numel() if output is not None else 0
    seen = {output.weight.data_ptr()} if output is not None else set()
    body = 0
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            continue
        for weight in module._parameters.values():
            if weight is not None and weight.dim() > 1 and weight.data_ptr() not in seen:
                seen.add(weight.data_ptr())
                body += weight.numel()
    return Matrices(body, head)


def weight_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes that every pass reads, and bytes of one token's rows of the embedding tables."""
    read: dict[tuple[int, int], int] = {}
    rows = 0
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            rows += module.weight[0].nbytes
            continue
        for tensor in _held(module):
            read[tensor.data_ptr(), tensor.nbytes] = tensor.nbytes
    return sum(read.values()), rows


def _held(module: nn.Module) -> Iterator[Tensor]:
    """A module's own parameters and buffers, and tensors inside what it keeps as plain attributes."""
    for held in (module._parameters, module._buffers):
        yield from (each for each in held.values() if each is not None)
    for name, value in vars(module).items():
        plain = isinstance(value, Tensor | tuple | list) or (
            dataclasses.is_dataclass(value) and not isinstance(value, type)
        )
        if plain and not name.startswith("_"):
            yield from tensors(value)


@dataclass(frozen=True)
class Traffic:
    """What a model and a filled cache move and compute, from which the costs of calls follow.

    kv: of each attention layer the bytes of one text's place (a key and a value of all heads), how many places it
    holds at most, and the flops of one token's attention to one place.
    """

    weights: int
    embedding_row: int
    states: int
    kv: tuple[tuple[int, int, int], ...]
    matrices: Matrices

    @classmethod
    def of(cls, model: nn.Module, cache: Any, batch: int, counted: Matrices) -> Traffic:
        """`cache` must have been used: its tensors tell the sizes."""
        weights, row = weight_bytes(model)
        heads = int(text_config(model).num_attention_heads)
        kv = []
        for _, layer in attention_layers(cache):
            places = layer.keys.shape[-2]
            size = (layer.keys.nbytes + layer.values.nbytes) // (batch * places)
            kv.append((size, places, 2 * heads * (layer.keys.shape[-1] + layer.values.shape[-1])))
        return cls(weights, row, sum(each.nbytes for _, each in states(cache)), tuple(kv), counted)

    def prefill(self, batch: int, prompt: int) -> Cost:
        """Logits of the last place alone: the head works once a text."""
        moved = self.weights + self.states + batch * prompt * self.embedding_row
        flops = 2 * batch * (prompt * self.matrices.body + self.matrices.head)
        for size, places, each in self.kv:
            moved += batch * size * min(prompt, places)
            flops += batch * each * sum(min(place + 1, places) for place in range(prompt))
        return Cost(moved, flops, batch * prompt)

    def decode(self, batch: int, prompt: int, new: int) -> Cost:
        """`new` steps, the first of which reads `prompt` places and adds its own."""
        moved = new * (self.weights + 2 * self.states + batch * self.embedding_row)
        flops = 2 * new * batch * (self.matrices.body + self.matrices.head)
        for size, places, each in self.kv:
            seen = sum(min(prompt + step + 1, places) for step in range(new))
            moved += batch * size * (seen + new)
            flops += batch * each * seen
        return Cost(moved, flops, batch * new)


def least_ns(cost: Cost, ceilings: Ceilings, accumulator: str) -> float:
    """The time that this machine needs at least: its memory's for the bytes or its matrix units' for the flops."""
    rate = ceilings.by_accumulator.get(accumulator, ceilings.matmul_tflops)
    return max(cost.bytes / ceilings.memory_gbps, cost.flops / (rate * 1e3))
