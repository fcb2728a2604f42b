"""What happens in the process of one compilation: Triton compiles, and what it made is read."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qbench.aot.launch import Launch
from qbench.aot.sass import code_of, resource_usage, tensor_kinds
from qbench.aot.ttir import cost


def compile_launches(launches: Sequence[Launch], folder: Path) -> dict[str, Any]:
    """Compile what these launches share and count for each of them. The result is JSON; `folder` is for files."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime import cache

    # Triton's own cache is not used: it would grow by megabytes, and making its keys reads all of libtriton (0.6 s).
    triton.knobs.cache.dir = str(folder / "triton")
    cache.triton_key = lambda: "none"
    made, target = launches[0].compilation, launches[0].target
    source = made.ast_source(made.fn, made.signature, made.constexprs, made.attrs)
    kernel = triton.compile(
        source, target=GPUTarget("cuda", target.arch, target.warp), options=vars(made.options)
    )
    cubin: bytes = kernel.asm["cubin"]
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    registers, stack = resource_usage(path)
    return {
        "registers": registers,
        "stack_bytes": stack,
        "shared_bytes": int(kernel.metadata.shared),
        "tensor_memory_columns": int(getattr(kernel.metadata, "tmem_size", 0) or 0),
        "warps": int(kernel.metadata.num_warps),
        "code": base64.b64encode(code_of(cubin)).decode(),
        "kinds": tensor_kinds(kernel.asm["ptx"]),
        "costs": [_cost(kernel.asm.get("ttir", ""), launch) for launch in launches],
    }


def _cost(ttir: str, launch: Launch) -> list[int | None]:
    """Bytes read and written and flops of a program; unknown for Gluon, which has no such IR."""
    if not ttir:
        return [None, None, None, None]
    values = [argument.value for argument in launch.arguments if argument.type != "constexpr"]
    counted = cost(ttir, values, launch.grid)
    return [counted.bytes_read, counted.bytes_written, counted.flops, counted.iterations]
