"""The commands around the gate: gate, record, accept, replay, history. What needs torch or scipy loads when used."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

EXIT_PASSED, EXIT_FAILED, EXIT_UNUSABLE, EXIT_NOT_MEASURED = 0, 1, 2, 3
Add = Callable[[str, str], argparse.ArgumentParser]
_COLLECT = (
    "what to collect, seen from the project's root; options of pytest after -- (default: the policy's tests)"
)


def share(text: str) -> float:
    """`5%` or `0.05`."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf") or (value > 1 and not text.endswith("%")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a share; write 5% or 0.05")
    return value


def natural(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def positive(text: str) -> float:
    """A number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def add_commands(add: Add) -> None:
    """Register them with `python -m qbench`; each sets `run`, a function of the parsed arguments."""
    command = add("gate", "is the working tree slower than where it left the base? interleaved runs of both")
    command.add_argument("--base", default="origin/main", metavar="REV", help="default: origin/main")
    command.add_argument("--case", action="append", metavar="ID", help="only this case; may be repeated")
    command.add_argument("--minutes", type=positive, metavar="M", help="budget (default: the policy's)")
    command.add_argument(
        "--base-python", default="", metavar="PATH", help="interpreter of the base's environment"
    )
    command.add_argument("--report", type=Path, metavar="DIR", help="write gate.json, gate.md and gate.xml")
    command.add_argument("--seed", type=int, default=0, help="of the order of cases (default: 0)")
    command.add_argument("--self-test", type=natural, metavar="N", nargs="?", const=5,
                         help="gate the tree against itself N times (default: 5), then slowed")  # fmt: skip
    command.add_argument("pytest_args", nargs="*", help=_COLLECT)
    command.set_defaults(run=_gate)
    command = add("record", "append runs to the baselines, each from a fresh process over all cases")
    command.add_argument("--runs", type=natural, default=10, metavar="N", help="processes (default: 10)")
    command.add_argument("--baselines", type=Path, metavar="DIR", help="default: the policy's, baselines")
    command.add_argument("--replace", action="store_true", help="the first run replaces what is stored")
    command.add_argument("pytest_args", nargs="*", help=_COLLECT)
    command.set_defaults(run=_record)
    command = add(
        "accept", "accept a slowdown: written to the baselines, to be reviewed and merged before the change"
    )
    command.add_argument("case", help="case id, * and ? as wildcards")
    command.add_argument(
        "--up-to", type=share, required=True, metavar="8%", help="slower than the base by at most this"
    )
    command.add_argument("--reason", required=True, help="why it is wanted, in a sentence")
    command.add_argument("--until", default="", metavar="DATE", help="last day it holds, 2027-01-31")
    command.add_argument("--device", default="*", metavar="KEY", help="device key, wildcards (default: any)")
    command.add_argument("--baselines", type=Path, metavar="DIR", help="default: the policy's, baselines")
    command.set_defaults(run=_accept)
    command = add("replay", "try the gate's rule and others on recorded noise, and print how each does")
    command.add_argument("noise", type=Path, metavar="FILE.json", help="medians by case and process")
    command.add_argument(
        "--suites", type=natural, default=10_000, metavar="N", help="unchanged suites (default: 10000)"
    )
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=_replay)
    command = add("history", "stored runs over time: CSV or JSON lines, and a plot of chosen cases")
    command.add_argument("baselines", type=Path, nargs="?", default=Path("baselines"), metavar="DIR")
    command.add_argument("--case", default="*", metavar="PATTERN", help="case id, * and ? as wildcards")
    command.add_argument("--format", choices=("csv", "jsonl"), default="csv")
    command.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw the cases' medians over time instead"
    )
    command.set_defaults(run=_history)


def _say(words: str) -> None:
    print(words, flush=True)


def _gate(args: argparse.Namespace) -> int:
    from qbench.gate import publish, words
    from qbench.gate.command import Wish, gate, write
    from qbench.gate.side import CannotMeasure

    wish = Wish(args.base, tuple(args.pytest_args), tuple(args.case or ()), args.minutes, args.base_python, args.report,
                args.seed)  # fmt: skip
    if args.report is not None:
        args.report.mkdir(parents=True, exist_ok=True)  # said now rather than when all is measured
    try:
        if args.self_test:
            from qbench.gate.selftest import self_test

            return EXIT_PASSED if self_test(Path.cwd(), wish, args.self_test, _say) else EXIT_FAILED
        found = gate(Path.cwd(), wish, _say)
    except CannotMeasure as error:
        print(f"qbench gate: could not measure: {error}", file=sys.stderr)
        return EXIT_NOT_MEASURED
    print(words.text(found), end="")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print("\n".join(publish.marks(found)))
    for path in write(found, wish.report):
        print(f"written   {path}")
    return EXIT_FAILED if found.failed else EXIT_PASSED


def _record(args: argparse.Namespace) -> int:
    from qbench.gate.command import tidy_on_signals
    from qbench.gate.policy import read_settings
    from qbench.gate.record import record
    from qbench.gate.side import CannotMeasure

    settings = read_settings(Path.cwd())
    folder = args.baselines or Path(settings.baselines)
    try:
        with tidy_on_signals():
            found = record(
                Path.cwd(),
                args.pytest_args or settings.tests,
                folder.absolute(),
                args.runs,
                _say,
                replace=args.replace,
                case_s=settings.budget.case_s,
                paths=settings.paths,
            )
    except CannotMeasure as error:
        print(f"qbench record: could not measure: {error}", file=sys.stderr)
        return EXIT_NOT_MEASURED
    print(f"{found.cases} cases stored in {folder}; review and commit them")
    for problem in found.problems:
        print(f"qbench record: not stored: {problem}", file=sys.stderr)
    return EXIT_FAILED if found.problems else EXIT_PASSED


def _accept(args: argparse.Namespace) -> int:
    from qbench.baseline import REMEDY, File, stored_files
    from qbench.gate.policy import Accepted, matches, read_settings, write_accepted
    from qbench.result import read_json

    entry = Accepted(args.case, args.up_to, args.reason, args.until, args.device)
    folder = args.baselines or Path(read_settings(Path.cwd()).baselines)
    path = write_accepted(folder, entry)
    known = {case for file in stored_files(folder) for case in read_json(file, File, REMEDY).cases}
    if known and not any(matches(case, entry.case) for case in known):
        print(f"qbench accept: {entry.case!r} is no case that is stored in {folder}", file=sys.stderr)
    print(
        f"{path}: {entry.case} may be up to {entry.up_to:.1%} slower; it holds once it is merged to the base"
    )
    return EXIT_PASSED


def _replay(args: argparse.Namespace) -> int:
    from qbench.gate.replay import load, report

    for words in report(load(args.noise), args.suites, args.seed):
        print(words, flush=True)
    return EXIT_PASSED


def _history(args: argparse.Namespace) -> int:
    from qbench.history import history, plot, write_rows

    rows = history(args.baselines, args.case)
    if not rows:
        print(
            f"qbench history: no stored run of a case like {args.case!r} under {args.baselines}",
            file=sys.stderr,
        )
        return EXIT_UNUSABLE
    if args.plot:
        try:
            plot(rows, args.plot)
        except (ValueError, ImportError) as error:
            print(f"qbench history: {error}", file=sys.stderr)
            return EXIT_UNUSABLE
        print(f"{len(rows)} runs drawn in {args.plot}")
    else:
        write_rows(rows, args.format, sys.stdout)
    return EXIT_PASSED
