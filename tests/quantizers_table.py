"""What a quantizer's time goes to, from a stored run: `python -m tests.quantizers_table reports/bench/results.json`.

One row for each quantizer, kind of scale, hidden size and number of tokens: µs, ns an element, bandwidth and its share
of this machine's own copy, and

    scale   the share of the time that a computed scale costs: 1 - static/dynamic, of the same op, provider and shape
            in the same run; nothing where no static form was timed
    peer    how many times as long torch.compile takes for the formula, in the same run

The bytes are the least that can be moved: x read once, codes and scales written. A dynamic scale of a tensor needs x
twice, so its share of the copy's rate is low by construction.
"""

from __future__ import annotations

import sys
from pathlib import Path

from qbench.result import Result, Run, read_run

PEER = "torch-compile"
STATIC = {"asymmetric": "static_asymmetric", "static_asymmetric": "static_asymmetric"}
"""What a kind of scale is taken against, but for `static`."""


def table(run: Run, provider: str = "triton") -> str:
    """Markdown of all quantizers of one provider; ValueError if the run holds none."""
    timed = {
        (r.op, r.provider, tuple(sorted(r.axes.items()))): r
        for r in run.results
        if r.op.endswith("_quantize") and r.times
    }
    rows = [r for r in timed.values() if r.provider == provider]
    if not rows:
        raise ValueError(
            f"the run times no quantizer of {provider!r}; pass one of --providers, or another run"
        )

    def like(r: Result, provider: str, **axes: str) -> Result | None:
        return timed.get((r.op, provider, tuple(sorted((r.axes | axes).items()))))

    lines = [
        "| quantizer | scale | K | M | µs | ns/element | GB/s | of the copy | scale | peer |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in sorted(rows, key=_order):
        assert r.times
        static = (
            like(r, provider, scale=STATIC.get(str(r.axes["scale"]), "static")) if "scale" in r.axes else None
        )
        peer = like(r, PEER)
        share = ""
        if static and static is not r and static.times:
            share = f"{100 * (1 - static.times.median_ns / r.times.median_ns):.0f}%"
        copy = 100 * r.gbps / run.ceilings.copy_gbps if r.gbps and run.ceilings else None
        ratio = f"{peer.times.median_ns / r.times.median_ns:.2f}×" if peer and peer.times else ""
        cells = (
            _name(r),
            r.axes.get("scale", ""),
            r.axes["k"],
            r.axes["m"],
            _three(r.times.median_ns / 1e3),
            "" if r.ns_per_element is None else f"{r.ns_per_element:.2g}",
            "" if r.gbps is None else f"{r.gbps:.0f}",
            "" if copy is None else f"{copy:.0f}%",
            share,
            ratio,
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _three(us: float) -> str:
    """Three figures, and never as a power of ten."""
    return f"{us:.3g}" if us < 1000 else f"{us:.0f}"


def _name(r: Result) -> str:
    rotated = f", Hadamard {had}" if (had := r.axes.get("had")) else ""
    return f"{r.op.removesuffix('_quantize')}, {r.axes['dtype']}{rotated}"


def _order(r: Result) -> tuple[object, ...]:
    axes = r.axes
    return (r.op, str(axes["dtype"]), axes.get("had", 0), str(axes.get("scale", "")), axes["k"], axes["m"])


if __name__ == "__main__":
    print(table(read_run(Path(sys.argv[1])), *sys.argv[2:]))
