"""What a session compiled, as lines for the terminal, Markdown, CSV, JSON and JUnit properties. Judges nothing."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

from qbench.aot.judge import Outcome
from qbench.aot.session import CompileResult
from qbench.aot.store import Change
from qbench.report.cells import Grid
from qbench.report.markdown import LIMIT_BYTES, escape, grid_markdown
from qbench.result import write_atomic

SCHEMA = 1
_SHOWN = 12  # of lists that nobody has to act on
_HEADINGS = {
    Outcome.BROKEN: "BROKEN: does not compile, or not as declared",
    Outcome.WORSE: "WORSE than stored, or not as declared",
    Outcome.CHANGED: "changed, within the limits",
    Outcome.BETTER: "better than stored; record it with --qbench-update",
}


def summary_lines(results: Sequence[CompileResult], triton: str) -> list[str]:
    """Counts, then by name what is worse, changed or better, then what bounds the kernels."""
    counts = Counter(result.judged.verdict for result in results)
    said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
    targets = sorted({result.target for result in results}, key=lambda name: int(name[3:]))
    kernels = f"{len(results)} kernel{'s' * (len(results) != 1)}"
    lines = [f"{kernels} compiled by Triton {triton} for {', '.join(targets)}: {said}"]
    for outcome, heading in _HEADINGS.items():
        found = [f"  {r.name}: {r.judged.words}" for r in results if r.judged.verdict is outcome]
        shown = found if outcome.fails else found[:_SHOWN]
        if found:
            lines += ["", heading, *shown]
        if len(shown) < len(found):
            lines.append(f"  and {len(found) - len(shown)} more")
    unsupported = Counter(
        (r.target, r.judged.words.split(" (")[0]) for r in results if r.judged.verdict is Outcome.UNSUPPORTED
    )
    lines += [
        f"unsupported as declared on {target}: {n} × {reason}" for (target, reason), n in unsupported.items()
    ]
    if counts[Outcome.NO_BASELINE]:
        lines.append(
            f"{counts[Outcome.NO_BASELINE]} were held to what is declared of them and compared with nothing; record "
            "them with --qbench-update"
        )
    return lines


def update_lines(changes: Mapping[str, Sequence[Change]], mode: str | None, folder: Path) -> list[str]:
    if mode is None:
        return []
    verb = "would change" if mode == "dry" else "changed"
    total = sum(map(len, changes.values()))
    lines = [f"compile baselines: {total} entries {verb} in {folder}"]
    for target, found in changes.items():
        shown = found if mode == "dry" else found[:_SHOWN]
        lines += [f"  {change.what} {change.entry} for {target}" for change in shown]
        if len(shown) < len(found):
            lines.append(f"  and {len(found) - len(shown)} more for {target}")
    return lines


def unused_lines(unused: Mapping[str, Sequence[str]]) -> list[str]:
    """Entries that this selection does not use: renamed, removed, or only not selected."""
    total = sum(map(len, unused.values()))
    names = sorted({name for names in unused.values() for name in names})
    more = [f"  and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    listed = [*(f"  {name}" for name in names[:_SHOWN]), *more]
    return (
        [f"compile baselines: {total} stored entries were not compiled in this session", *listed]
        if total
        else []
    )


def write_compile_report(directory: Path, results: Sequence[CompileResult], triton: str) -> list[Path]:
    """compile.json, compile.csv and compile.md in `directory`."""
    files = [directory / f"compile.{kind}" for kind in ("json", "csv", "md")]
    rows = [_row(result) for result in results]
    facts = {"schema": SCHEMA, "triton": triton, "results": [_complete(result) for result in results]}
    write_atomic(files[0], json.dumps(facts, indent=1, ensure_ascii=False).encode() + b"\n")
    out = StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomic(files[1], out.getvalue().encode())
    write_atomic(files[2], compile_markdown(results, triton).encode())
    return files


def compile_markdown(results: Sequence[CompileResult], triton: str, *, limit_bytes: int = LIMIT_BYTES) -> str:
    """The summary, then a table for each target folded away, as many as fit."""
    text = "## qbench, compiled without a GPU\n\n"
    text += (
        "".join(f"{escape(line.strip())}  \n" if line else "\n" for line in summary_lines(results, triton))
        + "\n"
    )
    for target in sorted({result.target for result in results}, key=lambda name: int(name[3:])):
        rows = [_row(result) for result in results if result.target == target]
        names = [name for name in rows[0] if name not in ("target", "words")]
        cells = tuple(tuple(str(row[name]) for name in names) for row in rows)
        grid = Grid(target, tuple(names), cells, left=frozenset({"kernel", "verdict", "mma", "floor"}))
        part = f"<details><summary>{target} ({len(rows)} kernels)</summary>\n\n{grid_markdown(grid)}\n</details>\n\n"
        if len((text + part).encode()) > limit_bytes - 100:
            return text + "further tables left out: over GitHub's limit of 1 MiB\n"
        text += part
    return text


def compile_properties(result: CompileResult) -> list[tuple[str, object]]:
    """JUnit properties, their names beginning with `qbench_compile_`."""
    return [(f"qbench_compile_{name}", value) for name, value in _row(result).items() if value != ""]


def _row(result: CompileResult) -> dict[str, Any]:
    metrics = result.metrics
    facts = {
        "kernel": result.entry or result.case,
        "target": result.target,
        "verdict": result.judged.verdict.value,
        "registers": metrics and metrics.registers,
        "spill": metrics and metrics.spill_bytes,
        "shared": metrics and metrics.shared_bytes,
        "instructions": metrics and metrics.instructions,
        "load_bits": metrics and max(metrics.global_loads, default=0),
        "store_bits": metrics and max(metrics.global_stores, default=0),
        "mma": metrics and ", ".join(sorted(metrics.mma)),
        "programs": metrics and metrics.programs,
        "floor": result.floor,
        "words": result.judged.words,
    }
    return {name: "" if value is None else value for name, value in facts.items()}


def _complete(result: CompileResult) -> dict[str, Any]:
    judged = result.judged
    return {
        "case": result.case,
        "entry": result.entry,
        "target": result.target,
        "verdict": judged.verdict.value,
        "as_declared": judged.as_declared,
        "findings": [asdict(finding) for finding in judged.findings],
        "metrics": asdict(result.metrics) if result.metrics else None,
        "floor": result.floor,
    }
