"""`python -m qbench gate`: base and candidate from git, the rounds, the report's files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import msgspec

from qbench.gate import words
from qbench.gate.policy import Settings, read_accepted, read_settings, stored_noise
from qbench.gate.result import Gate, GateVerdict, Row
from qbench.gate.rule import GatePolicy
from qbench.gate.run import Say, Tally, Track, run_rounds
from qbench.gate.side import CannotMeasure, Side
from qbench.gate.worktree import describe, git, merge_base, worktree
from qbench.result import write_atomic

LOCK = "requirements.lock"


@dataclass(frozen=True)
class Wish:
    """The command line. `cases`: only these ids; `minutes`: another budget; `base_python`: the base's interpreter."""

    base: str = "origin/main"
    pytest_args: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    minutes: float | None = None
    base_python: str = ""
    report: Path | None = None
    seed: int = 0


def gate(root: Path, wish: Wish, say: Say) -> Gate:
    """Compare the working tree at `root` with where it left `wish.base`. Raises CannotMeasure, DataError."""
    root = Path(git(root, "rev-parse", "--show-toplevel"))
    commit = merge_base(root, wish.base)
    with _tidy_on_signals(), worktree(root, commit) as tree:
        settings = read_settings(tree)
        _same_environment(root, tree, wish)
        args = wish.pytest_args or settings.tests
        base = Side("base", tree, args, settings.paths, wish.base_python or sys.executable)
        candidate = Side("candidate", root, args, settings.paths)
        described, now = git(root, "log", "-1", "--format=%h %s", commit), describe(root)
        say(f"base {described}; candidate {now}")
        found = compare(base, candidate, settings, wish, say)
        return msgspec.structs.replace(found, base=described, candidate=now)


def compare(
    base: Side,
    candidate: Side,
    settings: Settings,
    wish: Wish,
    say: Say,
    *,
    inject_ns: dict[str, float] | None = None,
) -> Gate:
    """Start both sides and decide every case that both have. `inject_ns`: extra time of the candidate by case."""
    budget = settings.budget
    if wish.minutes is not None:
        budget = dataclasses.replace(budget, total_s=60 * wish.minutes)
    try:
        for side in (base, candidate):
            side.start(limit_s=300.0)
        assert base.facts is not None and candidate.facts is not None
        device = candidate.facts.device
        noise = stored_noise(base.root / settings.baselines, device)
        both = [case for case in candidate.places if case in base.places]
        chosen = [case for case in both if not wish.cases or case in wish.cases]
        if unknown := [case for case in wish.cases if case not in both]:
            raise CannotMeasure(
                f"--case {unknown[0]!r} is not a case of both sides; list them: python -m qbench cases"
            )
        if not chosen:
            raise CannotMeasure("base and candidate have no case in common; were all tests renamed?")
        policy = settings.policy(device.kind)
        tracks = [Track(case, *noise.get(case, (0.0, 0.0))) for case in chosen]
        say(f"{len(tracks)} cases on {device.name}; stored noise of {sum(t.df > 0 for t in tracks)}")
        tally = run_rounds(base, candidate, tracks, policy, budget, say, seed=wish.seed, inject_ns=inject_ns)
    finally:
        base.close()
        candidate.close()
    accepted = read_accepted(base.root / settings.baselines)
    rows = [words.make_row(track, candidate.places[track.case], device, policy, accepted)
            for track in tally.tracks]  # fmt: skip
    return _gate(rows + _one_sided(base, candidate, wish), tally, candidate, policy, wish)


def _one_sided(base: Side, candidate: Side, wish: Wish) -> list[Row]:
    """Cases that only one side has. A case that is gone may be renamed, which loses nothing but must be said."""
    if wish.cases:
        return []
    gone = [
        Row(case, GateVerdict.UNMEASURED, "is not in the candidate: removed or renamed; look whether that is meant",
            place=place)
        for case, place in base.places.items() if case not in candidate.places
    ]  # fmt: skip
    new = [
        Row(case, GateVerdict.NEW, "is not in the base; nothing to compare with", place=place)
        for case, place in candidate.places.items() if case not in base.places
    ]  # fmt: skip
    return gone + new


def _gate(rows: list[Row], tally: Tally, candidate: Side, policy: GatePolicy, wish: Wish) -> Gate:
    assert candidate.facts is not None
    again = ["python", "-m", "qbench", "gate", "--base", wish.base]
    return Gate(
        schema=1,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        base="",
        candidate="",
        device=candidate.facts.device,
        versions=candidate.facts.versions,
        policy={key: float(value) for key, value in dataclasses.asdict(policy).items()},
        rows=tuple(rows),
        shift=tally.shift,
        suite_runs=tally.suite_runs,
        seconds=tally.seconds,
        command=shlex.join(again),
        pytest_args=wish.pytest_args,
    )


def write(found: Gate, folder: Path | None) -> list[Path]:
    """gate.json, gate.md and gate.xml in `folder`; the step summary and annotations where GitHub asks for them."""
    written = []
    if folder is not None:
        for name, data in (
            ("gate.json", msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"),
            ("gate.md", words.markdown(found).encode()),
            ("gate.xml", words.junit(found)),
        ):
            write_atomic(folder / name, data)
            written.append(folder / name)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(summary, "a", encoding="utf-8") as file:
            file.write(words.markdown(found))
    return written


def _same_environment(root: Path, tree: Path, wish: Wish) -> None:
    """Other locked versions need an environment of their own, or the comparison is of torch and not of the kernels."""
    if wish.base_python:
        return
    now, then = (path.read_bytes() if path.exists() else b"" for path in (root / LOCK, tree / LOCK))
    if now != then:
        raise CannotMeasure(
            f"{LOCK} differs from the base's, so the base needs its own environment: make one from the base's lock "
            "(git show BASE:requirements.lock) and name its interpreter with --base-python"
        )


@contextlib.contextmanager
def _tidy_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the gate as an exception does, so that workers and worktree go with it."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
