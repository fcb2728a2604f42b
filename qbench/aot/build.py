"""Compile recorded launches, without a GPU and without harm to this process, and read what came out.

Launches that differ in nothing but their grid and integers are compiled once. Each compilation has a process of its
own (see isolate); the code of all kernels of a target is then disassembled together. Results are kept between runs
(see cache), and a failed compilation is one line of text.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qbench.aot import cache as stored
from qbench.aot.branches import Instruction
from qbench.aot.driver import compilable
from qbench.aot.failure import describe, one_line, reason
from qbench.aot.isolate import isolated
from qbench.aot.launch import Launch
from qbench.aot.metrics import Metrics
from qbench.aot.sass import disassemble, summarize
from qbench.aot.target import Target
from qbench.aot.worker import compile_launches

GIB = 1024**3


@dataclass(frozen=True)
class Built:
    """What came of one launch: its metrics, or one line that says why there are none."""

    launch: Launch
    metrics: Metrics | None
    error: str = ""


def build(
    launches: Sequence[Launch],
    *,
    jobs: int = 2,
    cache: bool = True,
    timeout_s: float = 300,
    memory_bytes: int = 16 * GIB,
) -> list[Built]:
    """Compile the launches, in the order given, `jobs` processes at a time.

    cache         look up and keep metrics between runs
    timeout_s     of one compilation
    memory_bytes  of one compilation, beyond what this process has
    """
    with compilable():
        keys = [stored.metrics_key(launch) for launch in launches]
        done: dict[str, Metrics | str] = {}
        if cache:
            done = {key: metrics for key in dict.fromkeys(keys) if (metrics := stored.load(key)) is not None}
        groups: dict[str, dict[str, Launch]] = {}
        for key, launch in zip(keys, launches, strict=True):
            if key not in done:
                groups.setdefault(stored.compile_key(launch), {})[key] = launch
        if groups:
            _prepare([launch.target for launch in launches])
        outcomes = isolated(
            [partial(compile_launches, list(group.values())) for group in groups.values()],
            jobs=jobs, timeout_s=timeout_s, memory_bytes=memory_bytes, describe=describe,
        )  # fmt: skip
    compiled: list[tuple[dict[str, Launch], dict[str, Any]]] = []
    for group, outcome in zip(groups.values(), outcomes, strict=True):
        if outcome.value is None:
            done |= dict.fromkeys(group, reason(outcome))
        else:
            compiled.append((group, outcome.value))
    for group, answer, code in _disassembled(compiled):
        for (key, launch), counted in zip(group.items(), answer["costs"], strict=True):
            if isinstance(code, str):
                done[key] = code
                continue
            done[key] = metrics = _metrics(launch, answer, code, counted)
            if cache:
                stored.save(key, metrics)
    if cache and groups:
        stored.prune()
    return [
        Built(launch, None, result) if isinstance(result := done[key], str) else Built(launch, result)
        for key, launch in zip(keys, launches, strict=True)
    ]


def _prepare(targets: Sequence[Target]) -> None:
    """Have done once what otherwise each process would do: load the compiler, ask ptxas for its version."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend

    for target in set(targets):
        backend = make_backend(GPUTarget("cuda", target.arch, target.warp))
        backend.hash()


def _disassembled(
    compiled: Sequence[tuple[dict[str, Launch], dict[str, Any]]],
) -> list[tuple[dict[str, Launch], dict[str, Any], list[Instruction] | str]]:
    """With the instructions of each, or the line that says why they cannot be read."""
    result: list[tuple[dict[str, Launch], dict[str, Any], list[Instruction] | str]] = []
    by_target: dict[Target, list[tuple[dict[str, Launch], dict[str, Any]]]] = {}
    for each in compiled:
        by_target.setdefault(next(iter(each[0].values())).target, []).append(each)
    with tempfile.TemporaryDirectory(prefix="qbench-sass-") as folder:
        for target, these in by_target.items():
            codes = [base64.b64decode(answer["code"]) for _, answer in these]
            for (group, answer), code in zip(these, _read(codes, target, Path(folder)), strict=True):
                result.append((group, answer, code))
    return result


def _read(codes: list[bytes], target: Target, folder: Path) -> list[list[Instruction] | str]:
    try:
        return list(disassemble(codes, target.architecture, folder))
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        if len(codes) == 1:
            return [one_line(f"the disassembler failed: {error}")]
        return [read for code in codes for read in _read([code], target, folder)]


def _metrics(
    launch: Launch, answer: dict[str, Any], code: list[Instruction], counted: list[int | None]
) -> Metrics:
    read = summarize(code, answer["kinds"])
    return Metrics(
        registers=answer["registers"],
        spill_bytes=read.spill_bytes,
        stack_bytes=answer["stack_bytes"],
        shared_bytes=answer["shared_bytes"],
        tensor_memory_columns=answer["tensor_memory_columns"],
        warps=answer["warps"],
        instructions=read.instructions,
        looped=read.looped,
        overwritten=read.overwritten,
        reused=read.reused,
        iterations=counted[3],
        histogram=read.histogram,
        global_loads=read.global_loads,
        global_stores=read.global_stores,
        shared_loads=read.shared_loads,
        shared_stores=read.shared_stores,
        barriers=read.barriers,
        mma=read.mma,
        bytes_read=counted[0],
        bytes_written=counted[1],
        flops=counted[2],
        programs=launch.programs,
        divisible=launch.divisible,
    )
