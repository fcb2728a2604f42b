"""The SM clock beside every time, and waiting until it has recovered.

A GEMM can draw the card's whole power budget; the clock then falls by a fifth within 100 ms, and whatever
runs next is slower by as much for 100-200 ms. On an H200 (48 cases, fresh processes) the run-to-run sd of
back-to-back timing was 4%; waiting for the clock and timing in short bursts brought it to 0.25%.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

# nvmlClocksEventReasons: bits that mean "slower than it could be". Idle (0x1), application clocks (0x2)
# and sync boost (0x10) are settings, not throttling.
_REASONS = {
    0x4: "power-cap",
    0x8: "hw-slowdown",
    0x20: "sw-thermal",
    0x40: "hw-thermal",
    0x80: "hw-power-brake",
}
_SETTLED = 0.985  # of the maximum clock; the reading moves in steps of 15 MHz


class Monitor:
    """Reads one GPU's clock through NVML; without NVML every reading is 0 and nothing is waited for."""

    def __init__(self, index: int | None = None) -> None:
        self._nvml: Any = None
        self._handle: Any = None
        self._best = 0  # MHz, ever seen
        self._in_vain = 0  # full waits after which the clock was not back
        with contextlib.suppress(Exception):  # no driver library, no permission: times stand without clocks
            self._open(index)

    def _open(self, index: int | None) -> None:
        import pynvml
        import torch

        pynvml.nvmlInit()
        properties = torch.cuda.get_device_properties(torch.cuda.current_device() if index is None else index)
        # By UUID, not by index: CUDA_VISIBLE_DEVICES and virtual machines renumber.
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}".encode())
        self._nvml = pynvml
        try:
            self.clock_mhz(), self.max_clock_mhz(), self.throttle_reasons()
        except pynvml.NVMLError:  # a slice of a GPU, an old driver: not readable here
            self._nvml = None

    @property
    def available(self) -> bool:
        return self._nvml is not None

    def clock_mhz(self) -> int:
        if not self.available:
            return 0
        return int(self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM))

    def max_clock_mhz(self) -> int:
        """The clock this card can reach: its maximum, or what it was seen to reach if a limit holds it lower."""
        if not self.available:
            return 0
        return int(self._nvml.nvmlDeviceGetMaxClockInfo(self._handle, self._nvml.NVML_CLOCK_SM))

    def energy_j(self) -> float | None:
        """Joules drawn since the driver was loaded; None where the card does not count them. Moves every 20-100 ms."""
        if not self.available:
            return None
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError:  # before Volta, or a slice of a GPU
            return None

    def throttle_reasons(self) -> tuple[str, ...]:
        if not self.available:
            return ()
        mask = int(self._nvml.nvmlDeviceGetCurrentClocksEventReasons(self._handle))
        return tuple(name for bit, name in _REASONS.items() if mask & bit)

    def recover(self, limit_s: float = 0.6) -> float:
        """Wait until the SM clock is back and nothing throttles, at most `limit_s`; returns seconds waited.

        An idle GPU lowers its clock by itself, so the wait keeps it lightly awake with short spins, which
        draw next to no power. A card whose clock is locked below its maximum is recognised after three waits in
        vain: from then on the highest clock ever seen is asked for.
        """
        if not self.available:
            return 0.0
        import torch

        start = time.monotonic()
        top = self._best if self._in_vain >= 3 else self.max_clock_mhz()
        while (waited := time.monotonic() - start) < limit_s:
            torch.cuda._sleep(1_000_000)  # about 0.5 ms
            torch.cuda.synchronize()
            clock = self.clock_mhz()
            self._best = max(self._best, clock)
            if clock >= _SETTLED * top and not self.throttle_reasons():
                return waited
            time.sleep(0.005)
        self._in_vain += 1
        return limit_s


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def driver_version() -> str:
    """The NVIDIA driver's version, or "" where NVML does not answer."""
    with contextlib.suppress(Exception), _nvml() as nvml:
        return str(nvml.nvmlSystemGetDriverVersion())
    return ""
