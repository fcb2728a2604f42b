"""`python -m qbench`: list devices, cases and providers; compare, merge and report stored results."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.case import provider_info
from qbench.compare import CannotCombine, compare, merge
from qbench.gate.cli import add_commands, share
from qbench.model.compare.options import add_model_options, options_given
from qbench.result import DataError, read_run

if TYPE_CHECKING:
    from qbench.report.write import Written
    from qbench.result import Run

EXIT_OK, EXIT_SLOWER, EXIT_UNUSABLE = 0, 1, 2
_EPILOG = """exit codes:
  0  done; `compare` without --fail-over ends so whatever the ratios are
  1  `compare --fail-over`: a case is slower by more than that, was right and no longer is, or is missing from B;
     `gate`: a case is slower, or broken or lost on the candidate; `record`: a case was not stored
  2  wrong usage; a file that cannot be read, or files that cannot be compared or merged (no case in common;
     with --fail-over: different devices; whole models: unequal token counts, different problems); nothing collected
  3  `gate`, `record`: could not measure; no verdict
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    # Everything after `cases` belongs to pytest, options included, which argparse would claim for itself.
    collects = words[:1] in (["cases"], ["providers"]) and not {"-h", "--help"} & set(words[1:])
    args = parser.parse_args(words[:1] if collects else words)
    try:
        if hasattr(args, "run"):
            return int(args.run(args))
        if args.command == "devices":
            return devices(args.baselines)
        if args.command == "compare":
            return compare_files(args)
        if args.command == "spread":
            return spread(args.baselines, args.runs)
        if args.command == "floor":
            return floors(args.baselines, args.launches, args.gpu, args.all)
        if args.command == "merge":
            return merge_files(args.parts, args.output)
        if args.command == "report":
            return report(args.results, args.output)
        return list_cases(words[1:], providers=args.command == "providers")
    except (DataError, CannotCombine, OSError) as error:
        print(f"qbench: {error}", file=sys.stderr)
        return EXIT_UNUSABLE


def devices(root: Path) -> int:
    """This machine's devices, the key of each, what is stored for it and for others under `root`; the interpreter."""
    from qbench.baseline import stored_files
    from qbench.device import describe, has_cuda

    if has_cuda():
        import torch

        found = [describe(index) for index in range(torch.cuda.device_count())]
    else:
        found = [describe()]
    for index, device in enumerate(found):
        print(f"{device.kind}:{index}  {device.name}  {device.key}")
        print(f"  baselines: {_stored(root / device.key)}")
    others = sorted({path.parent.name for path in stored_files(root)} - {device.key for device in found})
    for key in others:
        print(f"not here  {key}\n  baselines: {_stored(root / key)}")
    print(_interpreter())
    return EXIT_OK


def _interpreter() -> str:
    """What Triton's interpreter, the other place where kernels run, gets wrong in the version that is here."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        triton = version("triton")
    except PackageNotFoundError:
        return "no Triton: no kernel can be interpreted or compiled"
    from qbench.interpreter import patches

    states = patches()
    mended = [state.name for state in states if state.repairs_a_defect and not state.active]
    used = sum(state.active for state in states)
    right = f"; right upstream by now: {', '.join(mended)}" if mended else ""
    return f"interpreter  Triton {triton}\n  repairs: {used} of {len(states)} in use{right}"


def list_cases(pytest_args: Sequence[str], *, providers: bool) -> int:
    """Collect through pytest and print the case ids, or each op/provider with its number of cases."""
    from qbench.collect import collect

    found = collect(pytest_args)
    if found is None:
        return EXIT_UNUSABLE
    cases = [each.case for each in found]
    if not providers:
        for case in cases:
            print(case.id)
        return EXIT_OK
    counts = Counter((case.op.name, case.provider_name) for case in cases)
    needs = {(case.op.name, case.provider_name): provider_info(case.provider).needs_cuda for case in cases}
    for (op, name), count in counts.items():
        print(f"{op}/{name}  {count} case{'s' * (count != 1)}{'  needs CUDA' if needs[op, name] else ''}")
    return EXIT_OK


def compare_files(args: argparse.Namespace) -> int:
    """Two runs case by case, B against A; or whole models, as soon as there is anything about them."""
    from qbench.model.compare import read_inputs
    from qbench.model.compare.command import compare_whole_models

    if args.fail_over is None and (args.sample or args.files):
        inputs = read_inputs(args.files)
        if inputs.has_models or options_given(args) or len(inputs.runs) != 2:
            if len(inputs.runs) == 2 and not options_given(args):
                _compare_kernels(inputs.runs)
            return compare_whole_models(inputs, args)
        return compare_runs(inputs.runs, None)
    if len(args.files) != 2 or options_given(args):
        raise CannotCombine(
            "give files to compare; --fail-over takes two results.json and no option of whole models"
        )
    return compare_runs([(str(path), read_run(path)) for path in args.files], args.fail_over)


def _compare_kernels(runs: Sequence[tuple[str, Run]]) -> None:
    """What two runs that hold whole models have in common beside these, if anything."""
    import msgspec

    plain = [
        (
            name,
            msgspec.structs.replace(
                run, results=tuple(r for r in run.results if not r.op.startswith("model_"))
            ),
        )
        for name, run in runs
    ]
    cases = [{result.case for result in run.results} for _, run in plain]
    if cases[0] & cases[1]:
        compare_runs(plain, None)
        print()


def compare_runs(runs: Sequence[tuple[str, Run]], fail_over: float | None) -> int:
    """Print b against a; exit 1 when `fail_over` (0.05 = 5%) is given and exceeded."""
    from qbench.report.comparison import comparison_text, failures_text

    (a, first), (b, second) = runs
    found = compare(first, second)
    print(comparison_text(found, a, b), end="")
    if fail_over is None:
        return EXIT_OK
    if not found.same_device:
        raise CannotCombine(
            "--fail-over needs two runs of the same device; leave it out to see the ratios only"
        )
    slower, broken = found.slower(fail_over), found.broken
    print(failures_text(slower, broken, found.only_a, fail_over), end="")
    return EXIT_SLOWER if slower or broken or found.only_a else EXIT_OK


def spread(root: Path, least_runs: int) -> int:
    """Print how much the cases of at least `least_runs` stored runs move from process to process."""
    from qbench.baseline import REMEDY, File, stored_files
    from qbench.result import read_json
    from qbench.spread import spread_lines, spreads

    if not root.is_dir():
        raise CannotCombine(f"no folder {root}: name one of baselines")
    for folder in sorted({path.parent for path in stored_files(root)}) or [root]:  # or one device's own
        print(folder)
        files = [read_json(path, File, REMEDY) for path in sorted(folder.glob("*.json"))]
        print("\n".join(spread_lines(spreads(files, least_runs))))
    return EXIT_OK


def floors(folder: Path, launches: str, gpu: str, every: bool) -> int:
    """Print how the static floors of stored cases rank beside their times; nothing is measured."""
    from qbench.aot.gpus import get_gpu
    from qbench.aot.ranking import find_function, points, ranking_lines, stored_times

    try:
        chosen, launch_of = get_gpu(gpu), find_function(launches)
    except ValueError as error:
        raise CannotCombine(str(error)) from error
    found = points(stored_times(folder), launch_of, chosen)
    print("\n".join(ranking_lines(found, chosen, every=every)))
    return EXIT_OK


def merge_files(parts: Sequence[Path], directory: Path) -> int:
    """Join parts of one sweep and write the whole report."""
    from qbench.report.write import write_report

    joined = merge([read_run(path) for path in parts])
    _say(write_report(directory, joined), f"{len(parts)} parts, {len(joined.results)} results")
    return EXIT_OK


def report(results: Path, directory: Path) -> int:
    """Write a stored run's report again, and print its tables."""
    from qbench.report import terminal_report, write_report

    run = read_run(results)
    print(terminal_report(run), end="")
    _say(write_report(directory, run), f"{len(run.results)} results")
    return EXIT_OK


def _say(written: Written, what: str) -> None:
    for note in written.notes:
        print(note)
    print(f"{what} in {written.files[0].parent}: {len(written.files)} files")


def _stored(folder: Path) -> str:
    """The ops stored in one device's folder; an unreadable file is named, not skipped."""
    from qbench.baseline import REMEDY, File
    from qbench.result import read_json

    said = []
    for path in sorted(folder.glob("*.json")):
        try:
            said.append(f"{path.stem} ({len(read_json(path, File, REMEDY).cases)} cases)")
        except DataError as error:
            said.append(f"UNREADABLE {error}")
    return ", ".join(said) or f"none in {folder}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m qbench",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    command = add("devices", "this machine's devices, their baseline keys, and the baselines there are")
    command.add_argument(
        "--baselines", type=Path, default=Path("baselines"), metavar="DIR", help="default: baselines"
    )
    for name, text in (
        ("cases", "list the case ids that pytest would run; all arguments go to pytest"),
        ("providers", "list each op/provider with its number of cases; all arguments go to pytest"),
    ):
        add(name, text).add_argument("pytest_args", nargs="*", help="paths and options, as for pytest")
    command = add(
        "compare", "ratios of two results.json, B over A; or whole models across any number of files"
    )
    command.add_argument(
        "files",
        type=Path,
        nargs="*",
        metavar="FILE.json",
        help="results.json; for whole models accuracy files and published tables as well",
    )
    command.add_argument(
        "--fail-over",
        type=share,
        metavar="5%",
        help="of two results.json: case by case, and exit 1 when a case is slower by more",
    )
    add_model_options(command)
    command = add("spread", "how much the stored times move from process to process")
    command.add_argument("baselines", type=Path, nargs="?", default=Path("baselines"), metavar="DIR")
    command.add_argument(
        "--runs", type=int, default=3, metavar="N", help="cases of at least N runs (default: 3)"
    )
    command = add(
        "floor", "static floors of compiled kernels beside the times stored for a device; needs no GPU"
    )
    command.add_argument(
        "baselines", type=Path, metavar="DIR", help="a device's folder, e.g. baselines/nvidia-h200…"
    )
    command.add_argument(
        "launches", metavar="MODULE:FUNCTION", help="gives the call that a case id timed, or None"
    )
    command.add_argument(
        "--gpu", required=True, metavar="NAME", help="of the table in qbench.aot.gpus, e.g. H200"
    )
    command.add_argument("--all", action="store_true", help="print every case")
    command = add("merge", "join the parts of one sweep into one report")
    command.add_argument("parts", type=Path, nargs="+", metavar="PART.json")
    command.add_argument("-o", dest="output", type=Path, required=True, metavar="DIR", help="folder to write")
    command = add("report", "write results.csv, report.md and plots from a results.json")
    command.add_argument("results", type=Path, metavar="results.json")
    command.add_argument("-o", dest="output", type=Path, required=True, metavar="DIR", help="folder to write")
    add_commands(add)
    return parser


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # µ and × on a terminal that has neither
    try:
        sys.exit(main())
    except BrokenPipeError:  # `… | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_OK)
