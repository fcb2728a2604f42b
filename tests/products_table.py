"""README's tables of products from stored runs: `python -m tests.products_table RUN.json ... [--peers RUN.json]`.

The first table is of this library's products at every batch size of the runs, which time different products or batch
sizes: a cell compares with cuBLAS in its own run. With --peers (the same file, or another
of the same machine) a second one follows, of every provider; and last, wherever the quickest right provider of an
operation is slower than bf16. % is that of the report: the least time of the call on this machine over its time, the
larger of bytes over measured bandwidth and flops over the measured rate of the units that the provider uses.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qbench.report.cells import first_line
from qbench.result import Result, Run, read_run

SHAPES = {(10240, 8192): "qkv", (8192, 8192): "o", (57344, 8192): "gate_up", (8192, 28672): "down"}
"""N and K of Llama-3.3-70B's layers."""
ROWS = (
    ("NVFP4 × bf16", "nvfp4_w4a16_gemm", "triton-prepared"),
    ("MXFP4 × bf16", "mxfp4_w4a16_gemm", "triton-prepared"),
    ("NVFP4 × NVFP4", "nvfp4_w4a4_gemm", "triton-prepared"),
    ("MXFP4 × MXFP4, FP8 sums", "mxfp4_w4a4_gemm", "triton-fp8"),
    ("the same, x quantized on the way", "mxfp4_hadamard_gemm", "triton-fp8"),
)
PLAIN = ("bf16_gemm", "torch-bf16")
PEER_BATCHES = (1, 16, 64, 1024, 4096)


@dataclass(frozen=True)
class Products:
    """The results of a run by (op, provider), (N, K) and M."""

    run: Run
    results: dict[tuple[str, str], dict[tuple[int, int], dict[int, Result]]]

    @classmethod
    def of(cls, run: Run) -> Products:
        made: dict[tuple[str, str], dict[tuple[int, int], dict[int, Result]]] = {}
        for result in run.results:
            n, k, m = (int(result.axes[name]) if name in result.axes else 0 for name in ("n", "k", "m"))
            if (n, k) in SHAPES:
                made.setdefault((result.op, result.provider), {}).setdefault((n, k), {})[m] = result
        return cls(run, made)

    def at(self, who: tuple[str, str], shape: tuple[int, int], m: int) -> Result | None:
        return self.results.get(who, {}).get(shape, {}).get(m)

    def us(self, who: tuple[str, str], shape: tuple[int, int], m: int) -> float | None:
        found = self.at(who, shape, m)
        return found.times.median_ns / 1e3 if found and found.times else None

    def batches(self) -> list[int]:
        """Those at which this library was timed."""
        ours = [self.results.get((op, provider), {}) for _, op, provider in ROWS]
        return sorted({m for shapes in ours for by_m in shapes.values() for m in by_m})

    def providers(self, op: str) -> list[str]:
        return [provider for each, provider in self.results if each == op]


def table(*runs: Products) -> str:
    """Markdown: µs, how many times as fast as cuBLAS bf16 in the same run, and % of the ceiling."""
    batches = sorted({m for products in runs for m in products.batches()})
    rows = []
    for what, op, provider in ROWS:
        for shape, name in SHAPES.items():
            cells = [
                next((found for each in runs if (found := _cell(each, (op, provider), shape, m))), "-")
                for m in batches
            ]
            rows.append([what, name, *cells])
            what = ""
    return _markdown(["", "N × K", *(f"M = {m}" for m in batches)], rows)


def _cell(products: Products, who: tuple[str, str], shape: tuple[int, int], m: int) -> str:
    """ "" where the run does not time it and bf16."""
    us, plain = products.us(who, shape, m), products.us(PLAIN, shape, m)
    if us is None or plain is None:
        return ""
    found = products.at(who, shape, m)
    assert found is not None
    # of a file that names no accumulator the rate to compare with is not known
    share = products.run.percent_of_ceiling(found) if found.accumulator else None
    return f"{_number(us)}, {plain / us:.2f}×" + ("" if share is None else f", {share:.0f}%")


def peers_table(products: Products) -> str:
    """Markdown: µs of every provider; n/a where it does not run, for the numbered reasons below; wrong is said so."""
    batches = [m for m in PEER_BATCHES if any(products.us(PLAIN, shape, m) for shape in SHAPES)]
    reasons: dict[str, int] = {}
    rows = []
    for what, op, ours in ROWS:
        named = f"{what}{', after rotation' if op.endswith('hadamard_gemm') else ''}"
        who = [(op, ours), *((op, other) for other in products.providers(op) if other != ours)]
        for shape, name in SHAPES.items():
            for each in (PLAIN, *who):
                found = [products.at(each, shape, m) for m in batches]
                if any(result is not None for result in found):
                    cells = [_time(result, reasons) for result in found]
                    rows.append([named, name, each[1], *cells])
                    named = name = ""
            name = ""
    listed = "".join(f"\n({number}) {reason}  " for reason, number in reasons.items())
    return _markdown(["", "N × K", "provider", *(f"M = {m}" for m in batches)], rows) + (
        f"\n{listed}" if listed else ""
    )


def _time(result: Result | None, reasons: dict[str, int]) -> str:
    if result is None:
        return "-"
    if result.times:
        return _number(result.times.median_ns / 1e3)
    word = {"unsupported": "n/a"}.get(result.status, result.status)
    number = reasons.setdefault(first_line(result.reason) or "no reason was given", len(reasons) + 1)
    return f"{word} ({number})"


def slower(products: Products) -> list[str]:
    """Every op, shape and M at which the quickest provider of the op is slower than bf16."""
    found = []
    for op in dict.fromkeys(op for op, _ in products.results if op != PLAIN[0]):
        who = products.providers(op)
        for shape, name in SHAPES.items():
            for m in sorted({m for each in who for m in products.results[op, each].get(shape, {})}):
                plain = products.us(PLAIN, shape, m)
                times = [(us, each) for each in who if (us := products.us((op, each), shape, m))]
                if plain and times and min(times)[0] > plain:
                    us, best = min(times)
                    both = f"{best} {_number(us)} µs, bf16 {_number(plain)} µs, {plain / us:.2f}×"
                    found.append(f"{op} {name} M = {m}: {both}")
    return found


def _number(us: float) -> str:
    return f"{us:.3g}" if us < 1000 else f"{us:.0f}"


def _markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "| --- " * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]).replace("|  |", "| |", 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", help="results.json of sweeps of this library's products and bf16"
    )
    parser.add_argument("--peers", type=Path, help="results.json of other providers beside them")
    asked = parser.parse_args()
    products = [Products.of(read_run(path)) for path in asked.runs]
    print(table(*products))
    lists = [slower(each) for each in products]
    if asked.peers:
        beside = Products.of(read_run(asked.peers))
        print(f"\n{peers_table(beside)}")
        lists.append(slower(beside) if asked.peers not in asked.runs else [])
    found = list(dict.fromkeys(line for each in lists for line in each))
    print("\nslower than cuBLAS bf16:" if found else "\nnowhere slower than cuBLAS bf16")
    print("".join(f"- {line}\n" for line in found))


if __name__ == "__main__":
    main()
