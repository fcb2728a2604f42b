"""A CUDA device for launchers to ask about, on a machine that has none.

While this lasts every tensor says that it lies on cuda:0, tensors asked for on a CUDA device are made in the
machine's memory, and the questions of torch.cuda about the device are answered for the target. Launchers then take
the path that they take on that GPU. Memory is real, so that alignments are, and a launcher may look into its tensors.
Not for use in threads; no CUDA context is made, and everything is put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

from qbench.aot.target import Target

DEVICE = torch.device("cuda", 0)
_CPU = torch.device("cpu")
_ANSWERS = {
    torch.Tensor.device.__get__: DEVICE,
    torch.Tensor.is_cuda.__get__: True,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: False,  # type: ignore[attr-defined]
    torch.Tensor.get_device: 0,
}


class _OnDevice(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ANSWERS:
            return _ANSWERS[func]
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        named = {name: _to_memory(value) for name, value in (kwargs or {}).items() if name != "pin_memory"}
        return func(*map(_to_memory, args), **named)


def _to_memory(value: Any) -> Any:
    """The device "cuda" becomes the CPU; everything else stays."""
    if isinstance(value, torch.device):
        return _CPU if value.type == "cuda" else value
    return _CPU if isinstance(value, str) and value.partition(":")[0] == "cuda" else value


def properties(target: Target) -> SimpleNamespace:
    """What torch.cuda.get_device_properties tells of the GPU that stands for the target."""
    return SimpleNamespace(
        name=target.gpu,
        major=target.capability[0],
        minor=target.capability[1],
        multi_processor_count=target.multiprocessors,
        shared_memory_per_block=48 * 1024,
        shared_memory_per_block_optin=target.shared_bytes,
        shared_memory_per_multiprocessor=target.shared_bytes + 1024,
        regs_per_multiprocessor=target.registers_per_multiprocessor,
        max_threads_per_multi_processor=1536 if target.shared_bytes < 128 * 1024 else 2048,
        warp_size=target.warp,
    )


@contextmanager
def on_device(target: Target) -> Iterator[None]:
    """While this lasts, torch speaks of a GPU of that target."""
    stream = SimpleNamespace(cuda_stream=0, synchronize=lambda: None, device=DEVICE)
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "_exchange_device": lambda device: 0,
        "_maybe_exchange_device": lambda device: 0,
        "get_device_name": lambda device=None: target.gpu,
        "get_device_capability": lambda device=None: target.capability,
        "get_device_properties": lambda device=None: properties(target),
        "current_stream": lambda device=None: stream,
        "default_stream": lambda device=None: stream,
        "synchronize": lambda device=None: None,
        "is_current_stream_capturing": lambda: False,
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(_OnDevice())
        yield
