"""The compile gate: kernels compiled for GPUs that are not here, and what came out compared with what was.

    target      TARGETS, get_target: compute capabilities and their limits
    pretend     a CUDA device for launchers to ask about
    driver      recording(target): launches are noted down, with Triton's own specialization, and nothing runs
    launch      Launch: one of them
    build       build(launches) -> Built: compiled in processes of their own; or one line that says why not
    worker      what happens in such a process; isolate: how it is kept from doing harm; failure: the line
    sass        registers, spills, widths, kinds of matrix product and opcodes, read from machine code
    ttir        bytes and flops of a program, counted in Triton's IR
    metrics     Metrics: the figures; cache: kept between runs
    compiled    qbench.compiled(fn, args, target=...): all this for one's own tests
    expect      Expectation: what a kernel must be made of, as data; check(metrics, expectation, target)
    judge       judge(now, base, ...): better, worse, the same, and why in words
    store       baselines/compile/<target>-triton-<version>.json
    floor       the time a launch cannot beat on a GPU, and which resource bounds it
    cases       CompileCase: what is compiled; session, hooks, report: as pytest

Importing this package imports neither torch nor triton.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.later import later

if TYPE_CHECKING:
    from qbench.aot.build import Built
    from qbench.aot.compiled import CompileFailed, Kernel, NotAsRequired
    from qbench.aot.driver import recording
    from qbench.aot.launch import Argument, Launch
    from qbench.aot.metrics import Metrics
    from qbench.aot.target import TARGETS, Target, get_target

_HOME = {
    "TARGETS": "target",
    "Argument": "launch",
    "Built": "build",
    "CompileFailed": "compiled",
    "Kernel": "compiled",
    "Launch": "launch",
    "Metrics": "metrics",
    "NotAsRequired": "compiled",
    "Target": "target",
    "get_target": "target",
    "recording": "driver",
}

__all__ = [
    "TARGETS",
    "Argument",
    "Built",
    "CompileFailed",
    "Kernel",
    "Launch",
    "Metrics",
    "NotAsRequired",
    "Target",
    "get_target",
    "recording",
]

__getattr__ = later(__name__, _HOME)
