"""README's table of products from a stored run: `python -m tests.products_table tests/data/h200_products.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

SHAPES = {(10240, 8192): "qkv", (8192, 8192): "o", (57344, 8192): "gate_up", (8192, 28672): "down"}
"""N and K of Llama-3.3-70B's layers."""
ROWS = (
    ("NVFP4 × bf16", "nvfp4_w4a16_gemm", "triton-prepared"),
    ("MXFP4 × bf16", "mxfp4_w4a16_gemm", "triton-prepared"),
    ("NVFP4 × NVFP4", "nvfp4_w4a4_gemm", "triton-prepared"),
    ("MXFP4 × MXFP4, FP8 sums", "mxfp4_w4a4_gemm", "triton-fp8"),
    ("the same, x quantized on the way", "mxfp4_hadamard_gemm", "triton-fp8"),
)


def table(run: Path) -> str:
    """Markdown: µs, and how many times as fast as cuBLAS bf16 in the same run."""
    times: dict[tuple[str, str, int, int, int], float] = {}
    for result in json.loads(run.read_text())["results"]:
        if result["status"] == "ok":
            axes = result["axes"]
            at = (result["op"], result["provider"], axes["n"], axes["k"], axes["m"])
            times[at] = result["times"]["median_ns"] / 1e3
    batches = sorted({at[-1] for at in times})
    lines = [
        "| | N × K | " + " | ".join(f"M = {m}" for m in batches) + " |",
        "| --- " * (2 + len(batches)) + "|",
    ]
    for what, op, provider in ROWS:
        for shape, name in SHAPES.items():
            cells = []
            for m in batches:
                us, plain = times[op, provider, *shape, m], times["bf16_gemm", "torch-bf16", *shape, m]
                cells.append(f"{us:.3g}, {plain / us:.2f}×" if us < 1000 else f"{us:.0f}, {plain / us:.2f}×")
            lines.append(f"| {what} | {name} | " + " | ".join(cells) + " |")
            what = ""
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
