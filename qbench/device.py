"""What the results were measured on: the device's description, its cache, and the versions that matter."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from qbench.result import Device

_VERSIONED = ("torch", "triton", "pytest-benchmark", "numpy", "pytest-qbench")


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def capability() -> tuple[int, int] | None:
    """Compute capability of the current CUDA device, None where there is none."""
    import torch

    return torch.cuda.get_device_capability() if has_cuda() else None


def describe(index: int | None = None) -> Device:
    """The CUDA device `index` (the current one by default), or this CPU where there is none."""
    import torch

    if not has_cuda():
        return describe_cpu()
    properties = torch.cuda.get_device_properties(torch.cuda.current_device() if index is None else index)
    return Device(
        "cuda",
        properties.name,
        f"{properties.major}.{properties.minor}",
        properties.multi_processor_count,
        round(properties.total_memory / 2**30),
    )


def describe_cpu() -> Device:
    """This CPU, also where there is a GPU beside it."""
    return Device("cpu", _cpu_name(), "", cpu_cores(), _host_memory_gib())


def versions() -> dict[str, str]:
    """Versions of all that can change a time; "driver" and "cuda" where there is a GPU."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if has_cuda():
        import torch

        from qbench.clocks import driver_version

        found["torch"] = str(torch.__version__)
        found["cuda"] = str(torch.version.cuda)
        if driver := driver_version():
            found["driver"] = driver
    return found


def l2_bytes() -> int:
    import torch

    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)


def cpu_cores() -> int:
    """Cores this process may use, which a container's CPU set narrows."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "cpu"


def _host_memory_gib() -> int:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (ValueError, OSError):  # not on this platform
        return 0
