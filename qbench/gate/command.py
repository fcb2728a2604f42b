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

from qbench.gate import publish, words
from qbench.gate.missing import Kept, judged_by_stored, notes, one_sided, stale
from qbench.gate.policy import Accepted, Settings, read_accepted, read_settings, read_stored
from qbench.gate.result import FAILING, Gate, Row
from qbench.gate.rows import make_row
from qbench.gate.rule import GatePolicy
from qbench.gate.run import Say, Tally, Track, run_rounds
from qbench.gate.side import CannotMeasure, Side
from qbench.gate.worktree import changed, describe, git, merge_base, project, top_level, worktree
from qbench.result import DataError, write_atomic

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


def gate(folder: Path, wish: Wish, say: Say) -> Gate:
    """Compare the working tree around `folder` with where it left `wish.base`. Raises CannotMeasure, DataError."""
    top = top_level(folder)
    root = project(folder.resolve(), top)
    commit = merge_base(top, wish.base)
    if commit == git(top, "rev-parse", "HEAD") and not changed(top):
        raise CannotMeasure(
            f"{wish.base} holds HEAD already and nothing is uncommitted, so there is nothing to compare; name an "
            "earlier revision (--base HEAD^), or measure the gate itself (--self-test)"
        )
    with tidy_on_signals(), worktree(top, commit) as checkout:
        tree = checkout / root.relative_to(top)
        described, now = describe(top, commit), describe(top)
        try:
            settings = read_settings(tree)
            accepted = read_accepted(tree / settings.baselines)
        except DataError as error:
            raise DataError(f"in the base ({described}): {str(error).replace(f'{checkout}/', '')}") from error
        read_accepted(
            root / read_settings(root).baselines
        )  # what this change would make of them must be readable
        _same_environment(root, tree, wish)
        args = wish.pytest_args or settings.tests
        python = wish.base_python or sys.executable
        base = Side("base", tree, args, settings.paths, python, avoid=root)
        candidate = Side("candidate", root, args, settings.paths, avoid=tree)
        say(f"base {described}; candidate {now}")
        found = compare(base, candidate, settings, wish, say, accepted=accepted)
        prefix = root.relative_to(top)
        rows = tuple(_placed(row, prefix) for row in found.rows)
        return msgspec.structs.replace(found, base=described, candidate=now, rows=rows)


def compare(
    base: Side,
    candidate: Side,
    settings: Settings,
    wish: Wish,
    say: Say,
    *,
    accepted: tuple[Accepted, ...] = (),
    inject_ns: dict[str, float] | None = None,
) -> Gate:
    """Start both sides and decide every case that both have. `inject_ns`: extra time of the candidate by case."""
    budget = settings.budget
    if wish.minutes is not None:
        budget = dataclasses.replace(budget, total_s=60 * wish.minutes)
    try:
        for side in (base, candidate):
            side.launch()
        for side in (base, candidate):
            side.start()
        kept = _kept(base, candidate, settings)
        chosen = _chosen(base, candidate, wish)
        policy = settings.policy(kept.device.kind)
        tracks = [Track(case, *kept.base.noise(case)) for case in chosen]
        say(f"{len(tracks)} cases on {kept.device.name}; stored noise of {sum(t.df > 0 for t in tracks)}")
        tally = run_rounds(base, candidate, tracks, policy, budget, say, seed=wish.seed, inject_ns=inject_ns)
    finally:
        base.close()
        candidate.close()
    assert base.facts is not None and candidate.facts is not None
    rows = [judged_by_stored(make_row(track, candidate.places[track.case], kept.device, policy, accepted), kept)
            for track in tally.tracks]  # fmt: skip
    _something_measured(rows)
    said = notes(chosen, base.facts, candidate.facts, kept)
    if not wish.cases:
        rows += one_sided(base.places, candidate.places, kept)
        said += stale({*base.places, *candidate.places}, kept)
    made = _gate(rows, tally, candidate, policy, wish)
    return msgspec.structs.replace(made, notes=(*said, *words.card_notes(rows, tally.shift)))


def _kept(base: Side, candidate: Side, settings: Settings) -> Kept:
    assert base.facts is not None and candidate.facts is not None
    device = candidate.facts.device
    if base.facts.device != device:
        raise CannotMeasure(f"the base ran on {base.facts.device.key}, the candidate on {device.key}")
    try:
        stored = read_stored(base.root / settings.baselines, device)
    except DataError as error:
        raise DataError(f"in the base: {str(error).replace(f'{base.root}/', '')}") from error
    now = read_stored(candidate.root / settings.baselines, device)
    return Kept(stored, frozenset(now.logs), device, settings.baselines)


def _chosen(base: Side, candidate: Side, wish: Wish) -> list[str]:
    """The cases to compare. Raises CannotMeasure when there are none."""
    both = [case for case in candidate.places if case in base.places]
    if unknown := [case for case in wish.cases if case not in both]:
        raise CannotMeasure(
            f"--case {unknown[0]!r} is not a case of both sides; list them: python -m qbench cases"
        )
    if not both:
        raise CannotMeasure("base and candidate have no case in common; were all of them renamed?")
    return [case for case in both if not wish.cases or case in wish.cases]


def _something_measured(rows: list[Row]) -> None:
    """A gate that timed nothing must not pass. Raises CannotMeasure."""
    if any(row.ratio is not None or row.verdict in FAILING for row in rows):
        return
    first = words.in_order(tuple(rows))[0]
    raise CannotMeasure(
        f"none of {len(rows)} cases was timed on both sides; {first.case} is {first.verdict}: {first.reason}"
    )


def _placed(row: Row, prefix: Path) -> Row:
    """Files as seen from the repository's root, which annotations count from."""
    if row.place is None:
        return row
    place = msgspec.structs.replace(row.place, file=(prefix / row.place.file).as_posix())
    return msgspec.structs.replace(row, place=place)


def _gate(rows: list[Row], tally: Tally, candidate: Side, policy: GatePolicy, wish: Wish) -> Gate:
    assert candidate.facts is not None
    again = ["python", "-m", "qbench", "gate", "--base", wish.base]
    again += ["--base-python", wish.base_python] if wish.base_python else []
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
            ("gate.md", publish.markdown(found).encode()),
            ("gate.xml", publish.junit(found)),
        ):
            write_atomic(folder / name, data)
            written.append(folder / name)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(summary, "a", encoding="utf-8") as file:
            file.write(publish.markdown(found))
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
def tidy_on_signals() -> Iterator[None]:
    """SIGTERM, SIGHUP and SIGINT end this as an exception does, so that workers and worktree go with it. Once: a
    second signal does not end the tidying.
    """
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

    def end(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        os.write(2, f"qbench: ended by {signal.Signals(number).name}, no verdict\n".encode())
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
