"""What a GPU is called: its name with its compute capability, and more where that is not enough.

Different chips are sold under one name ("RTX PRO 6000" is an Ada and a Blackwell card).
"""

from __future__ import annotations

from collections.abc import Iterable

from qbench.result import Device


def gpu_names(devices: Iterable[Device]) -> dict[str, str]:
    """The name of each device by its key. Distinct: units and memory are added to names that would be alike."""
    by_key = {device.key: device for device in devices}
    short = {key: published_gpu(device.name, device.capability) for key, device in by_key.items()}
    alike = list(short.values())
    return {
        key: short[key]
        if alike.count(short[key]) == 1
        else f"{short[key]} ({device.units} SMs, {device.memory_gib} GiB)"
        for key, device in by_key.items()
    }


def published_gpu(name: str, capability: str) -> str:
    """`NVIDIA H200 (sm_90)`; the name alone where the capability is not known or it is a CPU."""
    return f"{name} (sm_{capability.replace('.', '')})" if capability else name
