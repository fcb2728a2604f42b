"""What a quantizer's time goes to, from a stored run: `python -m tests.quantizers_table reports/bench/results.json`.
With --short a row for each quantizer and a column for each shape: µs, and % of the copy (README's table); then several
runs may be given, of different shapes.

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


def short(*runs: Run, provider: str = "triton") -> str:
    """Markdown: µs and % of the copy's rate of every quantizer, fused ones too, at every shape of the runs; in brackets
    how many times as long torch.compile takes there."""
    found: list[tuple[tuple[object, ...], str, tuple[int, int], str]] = []
    for run in runs:
        timed = {(r.op, r.provider, tuple(sorted(r.axes.items()))): r for r in run.results if r.times}
        for r in timed.values():
            if r.provider != provider or "dtype" not in r.axes:  # products have none
                continue
            assert r.times and run.ceilings and r.gbps
            peer = timed.get((r.op, PEER, tuple(sorted(r.axes.items()))))
            cell = f"{_three(r.times.median_ns / 1e3)}, {100 * r.gbps / run.ceilings.copy_gbps:.0f}%"
            if peer and peer.times:
                cell += f" ({peer.times.median_ns / r.times.median_ns:.1f}×)"
            named = f"{_name(r)}{', ' + str(r.axes['scale']) if 'scale' in r.axes else ''}"
            named += ", residual" if r.axes.get("residual") else ""
            found.append((_order(r)[:-2], named, (int(r.axes["m"]), int(r.axes["k"])), cell))
    rows: dict[str, dict[tuple[int, int], str]] = {}
    for _, named, shape, cell in sorted(found):
        rows.setdefault(named, {})[shape] = cell
    shapes = sorted({shape for cells in rows.values() for shape in cells})
    lines = ["| | " + " | ".join(f"{m} × {k}" for m, k in shapes) + " |", "| --- " * (len(shapes) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(cells.get(shape, "") for shape in shapes) + " |"
        for name, cells in rows.items()
    ]
    return "\n".join(lines)


def _name(r: Result) -> str:
    rotated = f", Hadamard {had}" if (had := r.axes.get("had")) else ""
    blocked = ", blocked" if r.axes.get("layout") == "blocked" else ""
    return f"{r.op.removesuffix('_quantize')}, {r.axes['dtype']}{rotated}{blocked}"


def _order(r: Result) -> tuple[object, ...]:
    axes = r.axes
    kind = (
        axes.get("had", 0),
        str(axes.get("layout", "")),
        str(axes.get("scale", "")),
        axes.get("residual", 0),
    )
    return (r.op, str(axes["dtype"]), *kind, axes["k"], axes["m"])


if __name__ == "__main__":
    given = [each for each in sys.argv[1:] if each != "--short"]
    try:
        if "--short" in sys.argv:
            print(short(*(read_run(Path(each)) for each in given)))
        else:
            path, *rest = given
            print(table(read_run(Path(path)), *rest))
    except ValueError as problem:
        sys.exit(f"error: {problem}")
