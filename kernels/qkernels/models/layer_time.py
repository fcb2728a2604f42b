"""Seconds of one call of a layer, its weights read from memory: what a layer adds to a step of decoding."""

from __future__ import annotations

import copy
import statistics
import time

import torch
from torch import nn

_CALLS, _ROUNDS, _COPIES = 20, 15, 64


@torch.no_grad()
def layer_seconds(layer: nn.Module, *, rows: int = 1) -> float:
    """Median seconds of layer(x), x bf16 or as the layer's parameters [rows, K], K = layer.in_features.

    CUDA: a graph of calls that takes turns through copies of the layer, together twice the L2 cache, so that none finds
    its weight there (64 copies at most: layers below a megabyte stay warm). Elsewhere: the layer by the wall clock.
    """
    tensors = [*layer.parameters(), *layer.buffers()]
    device = tensors[0].device
    dtype = next((p.dtype for p in layer.parameters() if p.is_floating_point()), torch.bfloat16)
    x = torch.randn(rows, int(layer.in_features), device=device, dtype=dtype)  # type: ignore[arg-type]
    if device.type != "cuda":
        layer(x)
        return statistics.median(_wall(layer, x) for _ in range(_ROUNDS))
    size = max(1, sum(t.nbytes for t in tensors))
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    layers = [layer] + [copy.deepcopy(layer) for _ in range(min(_COPIES, 2 * cache // size + 1) - 1)]
    calls = max(_CALLS, len(layers))
    with torch.cuda.device(device):
        return _graph(layers, x, calls) / calls


def _graph(layers: list[nn.Module], x: torch.Tensor, calls: int) -> float:
    """Median seconds of one replay of `calls` calls."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles and allocates what a capture may not
        for layer in layers:
            layer(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in range(calls):
            layers[call % len(layers)](x)
    taken = []
    for _ in range(_ROUNDS + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) / 1e3)
    return float(statistics.median(taken[2:]))


def _wall(layer: nn.Module, x: torch.Tensor) -> float:
    start = time.perf_counter()
    for _ in range(_CALLS):
        layer(x)
    return (time.perf_counter() - start) / _CALLS
