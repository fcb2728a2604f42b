"""The GPU that Hopper's products run on: its number of multiprocessors, and memory that their launches share."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from qbench import Unsupported

_COUNTERS = 1024  # of a launch: at least twice the programs that are there at once
_STREAMS = 1024  # and graphs, that have counters of their own; later graphs zero theirs in each replay


def require_hopper(device: torch.device) -> None:
    """Unsupported, before anything is compiled, on another GPU."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] != 9:
        raise Unsupported("written for Hopper's wgmma and TMA (sm_90)", "triton")


def processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


class Workspace:
    """Counters of a device: each stream has its own, and so has each stream of a graph being captured.

    Graphs may be replayed at once, whatever stream they were captured on. Sums are memory of the launch: what is
    allocated while torch.compile warms up or captures a graph must not stay in use. For that reason, too, `reserve`
    allocates counters before.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mark = torch.empty(0, device=device)
        self.counters: dict[tuple[int, int], Tensor] = {}
        self.spare: list[Tensor] = []

    def reserve(self) -> None:
        if not self.spare:
            self.spare.extend(self._zeros(_STREAMS).unbind())
            torch.cuda.current_stream(self.device).synchronize()  # other streams use them too

    def take(self, floats: int) -> tuple[Tensor, Tensor]:
        stream = torch.cuda.current_stream(self.device).cuda_stream
        capture = _capture(stream) if torch.cuda.is_current_stream_capturing() else 0
        counters = self.counters.get((stream, capture))
        if counters is None:
            if not capture:
                self.reserve()
            if not self.spare:
                return self._empty(floats), self._zeros(1)[0]
            counters = self.counters[stream, capture] = self.spare.pop()
        return self._empty(floats), counters

    def _empty(self, floats: int) -> Tensor:
        return torch.empty(floats, dtype=torch.float32, device=self.device)

    def _zeros(self, launches: int) -> Tensor:
        return torch.zeros(launches, _COUNTERS, dtype=torch.int32, device=self.device)


def _capture(stream: int) -> int:
    """The number of the capture that is under way on a stream; torch does not tell it."""
    status, number = ctypes.c_int(), ctypes.c_uint64()
    ask = ctypes.CDLL("libcuda.so.1").cuStreamGetCaptureInfo_v2
    error = ask(ctypes.c_void_p(stream), ctypes.byref(status), ctypes.byref(number), None, None, None)
    if error:
        raise RuntimeError(f"cuStreamGetCaptureInfo: CUDA error {error}")
    return number.value


_WORKSPACES: dict[torch.device, Workspace] = {}


def workspace(device: torch.device, floats: int) -> tuple[Tensor, Tensor]:
    """fp32 [floats] and counters, int32, all zero: of this device and stream. No floats, no counters."""
    if floats:
        return _workspace(device).take(floats)
    nothing = torch.empty(1, dtype=torch.float32, device=device)
    return nothing, nothing.view(torch.int32)


def counters(device: torch.device) -> Tensor:
    """int32 [1024], all zero, which every launch leaves at zero: of this device and stream; new ones where none is."""
    if device.type != "cuda":
        return torch.zeros(_COUNTERS, dtype=torch.int32, device=device)
    return _workspace(device).take(0)[1]


def reserve(device: torch.device) -> None:
    """Allocate now what launches on a device share. Waits for it, once."""
    _workspace(device).reserve()


def _workspace(device: torch.device) -> Workspace:
    found = _WORKSPACES.get(device)
    # one made while launches were only recorded, on a device that was not there, does not serve the real one
    if found is None or found.mark.device != device:
        found = _WORKSPACES[device] = Workspace(device)
    return found
