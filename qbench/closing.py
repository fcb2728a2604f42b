"""The end of a session: baselines written, reports written, and the lines that the terminal shows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from qbench.baseline import Change
from qbench.report import append_step_summary, terminal_report, write_report
from qbench.result import DataError
from qbench.session import Session

_SHOWN = 12


@dataclass(frozen=True)
class Closing:
    """What to print, and the error that turns an otherwise good session red."""

    lines: list[str]
    error: str = ""


def close(session: Session, *, interrupted: bool) -> Closing:
    """Write what was asked for. Never raises for unwritable or broken files: the results are still printed."""
    if not session.timing:
        return Closing(["nothing was timed, so nothing was compared, stored or reported"])
    run = session.run()
    lines = terminal_report(run).splitlines()
    errors = []
    try:
        if session.options.update and interrupted:
            lines.append("baselines: the session was interrupted; none was written")
        else:
            lines += _update(session)
        lines += _other_versions(session, run.versions)
        lines += _unused(session)
        if session.lost:
            lines.append(f"baselines: {len(session.lost)} cases that have one could not run here")
            lines += [f"  {case}" for case in session.lost[:_SHOWN]]
    except (DataError, OSError) as error:
        errors.append(f"baselines: {error}")
    try:
        if session.options.report:
            written = write_report(session.options.report, run)
            lines += [f"report: {len(written.files)} files in {session.options.report}", *written.notes]
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            append_step_summary(Path(summary), run)
    except OSError as error:
        errors.append(f"report: {error}")
    return Closing(lines, "\n".join(errors))


def _update(session: Session) -> list[str]:
    mode = session.options.update
    if mode is None:
        return []
    changes = session.update()
    folder = session.store.folder
    verb = "would change" if mode == "dry" else "changed"
    lines = [f"baselines: {len(changes)} cases {verb} in {folder}"]
    if mode == "dry":
        lines += [f"  {_change(change)}" for change in changes]
    status = {(result.status, result.op) for result in session.results}
    failed = sorted(op for state, op in status if state == "error")
    if any(state == "wrong" for state, _ in status):
        lines.append("baselines: a wrong result: nothing was stored from this session")
    elif failed:
        lines.append(f"baselines: nothing was stored for {', '.join(failed)}: a case failed")
    return lines


def _change(change: Change) -> str:
    before = ", ".join(f"{ns / 1e3:.2f}" for ns in change.before) or "none"
    return f"{change.what} {change.case}: {change.now_ns / 1e3:.2f} µs (stored: {before})"


def _other_versions(session: Session, now: dict[str, str]) -> list[str]:
    """A difference may be another torch, Triton or driver, and not the code."""
    stored = session.store.versions(("torch", "triton", "driver"))
    return [
        f"baselines: recorded with {name} {', '.join(sorted(known))}, this run has {now.get(name, 'none')}"
        for name, known in stored.items()
        if known and known != {now.get(name)}
    ]


def _unused(session: Session) -> list[str]:
    """Entries that this selection does not use: gone from the tests, or only not selected."""
    unused = session.unused()
    unseen = session.unseen()
    lines = [f"baselines: ops of which nothing was collected: {', '.join(unseen)}"] if unseen else []
    if not unused:
        return lines
    listed = unused if session.options.update == "dry" else unused[:_SHOWN]
    lines += [f"baselines: {len(unused)} stored cases were not collected in this session"]
    lines += [f"  {case}" for case in listed]
    if len(listed) < len(unused):
        lines.append(f"  and {len(unused) - len(listed)} more; --qbench-update=dry lists all")
    return lines
