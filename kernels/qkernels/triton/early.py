"""Launches that begin while the kernel before them ends: programmatic dependent launch, from sm_90.

A kernel launched early (`launch_pdl=True`) may start once every program of the kernel before it has called
`gdc_launch_dependents` or ended. `gdc_wait` then holds it until that kernel has ended and its writes are seen. What
this saves is the latency of a launch, and, of two kernels that are launched together, whatever the second can do
before its `gdc_wait`.

The rule of this package's kernels, by which a launch of any of them may follow any kernel and be followed by any:
  1. Every program waits (`after_previous`) before it reads or writes anything but constants of the launch. Products
     fetch prepared weights before, fp8_few their scales and its bias, too: nobody writes those between launches
     (prepared.py).
  2. Only then does it let its successors begin. So what follows starts no earlier than the kernel before has ended:
     when a program of a successor runs, everything launched before this kernel is complete and visible. Kernels that
     torch.compile writes count on that: they wait only before they read what the kernel just before them wrote.
  3. A successor launched in the same call (the conversion after amax.py) may read x before its own wait. x is
     written by neither of the two, and by 2 whoever wrote it ended before the first of them let the second begin.
     It writes nothing, and does not read the maxima, before it has waited.
  4. Every program waits, also one without work, so that the end of a kernel implies the end of those before it.
     torch.compile writes kernels that do not where they read nothing at all; it follows no other rule of these.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


def early_launches(device: torch.device) -> bool:
    """Can kernels be launched early there? GPUs from sm_90; never in the interpreter."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def after_previous(EARLY: tl.constexpr):
    """The kernel before has ended, and the next may be brought in. Nothing where launches are not early."""
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
