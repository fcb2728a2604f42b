"""python -m qkernels.models accuracy | layers: what a recipe costs a model, by problems solved and layer by layer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from qbench.model.accuracy import Accuracy, detectable, judge, markdown, read_accuracy, write_accuracy
from qbench.result import write_atomic
from qbench.turns import sharing, turn

from .accuracy import Subject, accuracies, local, tiny
from .recipe import RECIPES, get_recipe
from .support import ProbeError

TINY = "tiny"
_WORSE, _WRONG_USE = 1, 2
T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 1 where a recipe got worse than what is stored, 2 for what cannot be read or done."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (OSError, ValueError, ImportError, ProbeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _WRONG_USE


def _accuracy(args: argparse.Namespace) -> int:
    recipes = [get_recipe(name) for name in args.recipes]
    subject = _subject(args)
    if args.against:
        _require_comparable(args, len(subject.problems))
    args.output.mkdir(parents=True, exist_ok=True)
    found: list[Accuracy] = []
    for recipe, each in _in_shares(accuracies(subject, recipes, args.device), torch.device(args.device)):
        if not isinstance(each, Accuracy):
            instead = f"; next best: {each.instead}" if each.instead else ""
            print(f"{recipe.name}: n/a, {each.code}: {each.reason}{instead}", file=sys.stderr)
            continue
        write_accuracy(_file(args.output, recipe.name), each)
        print(
            f"{recipe.name}: {each.score:.4f}, KL {each.figures['kl_nats']:.3g} nats a token", file=sys.stderr
        )
        found.append(each)
    if found:
        print(markdown(found[0], found[1:]))
    return _against(args.against, args.recipes, found, args.margin) if args.against else 0


def _in_shares(made: Iterator[T], device: torch.device) -> Iterator[T]:
    """Each as it is made, while no other process times on the device."""
    while True:
        with sharing(device, _say):
            try:
                each = next(made)
            except StopIteration:
                return
        yield each


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _require_comparable(args: argparse.Namespace, problems: int) -> None:
    """ValueError, before anything is measured, where a comparison could say nothing."""
    if not any(_file(args.against, name).exists() for name in args.recipes):
        raise ValueError(
            f"--against {args.against}: no accuracy-RECIPE.json of {', '.join(args.recipes)} there"
        )
    if detectable(1.0, problems, args.margin) is None:
        raise ValueError(
            f"{problems} problems cannot prove a loss above --margin {args.margin}; ask more of them"
        )


def _against(folder: Path, asked: Sequence[str], found: Sequence[Accuracy], margin: float) -> int:
    """Each recipe against its own file there, per problem; the exit code. One that ran then and cannot now is lost."""
    code = 0
    for name in asked:
        if _file(folder, name).exists() and all(each.recipe != name for each in found):
            print(f"{name}: stored in {folder}, and cannot run here")
            code = _WORSE
    for each in found:
        path = _file(folder, each.recipe)
        if not path.exists():
            print(f"{each.recipe}: nothing stored in {folder}")
            continue
        stored = read_accuracy(path)
        if stored.digest != each.digest or stored.model != each.model:
            raise ValueError(
                f"{path}: {stored.model} was asked other problems; measure both on one file of problems"
            )
        judged = judge(stored.correct, each.correct, margin=margin)
        differ = sum(a != b for a, b in zip(stored.correct, each.correct, strict=True))
        print(f"{each.recipe}: {judged.line()}; {differ} problems differ from those on {stored.device.name}")
        code = max(code, _WORSE if judged.finding == "worse" else 0)
    return code


def _layers(args: argparse.Namespace) -> int:
    from .layer_time import layer_seconds
    from .sensitivity import sensitivity

    subject = _subject(args)
    device = torch.device(args.device)
    time = layer_seconds if device.type == "cuda" else None
    with turn(device, _say):
        found = sensitivity(subject.load(), args.recipe, subject.parts, time=time)
    print(found.table())
    names = found.skip_for(args.share)
    print(f"the fewest layers that cost {args.share:.0%} of the sum: skip=({', '.join(map(repr, names))})")
    if args.output:
        from .sensitivity_plot import plot_png

        args.output.mkdir(parents=True, exist_ok=True)
        write_atomic(args.output / f"layers-{args.recipe}.png", plot_png(found))
        write_atomic(args.output / f"layers-{args.recipe}.txt", f"{found.table()}\n".encode())
    return 0


def _subject(args: argparse.Namespace) -> Subject:
    if args.model == TINY:
        if args.problems or args.shots or args.text or args.new:
            raise ValueError(f"--model {TINY} has problems of its own; --problems, --shots, --text and --new are for "
                             "a folder")  # fmt: skip
        return tiny(args.device, dtype=args.dtype, count=args.count, batch=args.batch)
    if args.problems is None:
        raise ValueError(f"--model {args.model}: give --problems FILE.jsonl, in GSM8K's form")
    return local(
        Path(args.model), args.device, problems=args.problems, shots=args.shots, text=args.text, dtype=args.dtype,
        count=args.count, batch=args.batch, new=args.new or 256,
    )  # fmt: skip


def _file(folder: Path, recipe: str) -> Path:
    return folder / f"accuracy-{recipe}.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m qkernels.models", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    accuracy = commands.add_parser("accuracy", help="problems solved under each recipe, a file for each")
    layers = commands.add_parser("layers", help="which layers cost most accuracy, and which gain most time")
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    # fmt: off
    for command in (accuracy, layers):
        add = command.add_argument
        add("--model", default=TINY, metavar="DIR", help=f"a local folder; default: {TINY}, of two-digit arithmetic")
        add("--problems", type=Path, metavar="FILE.jsonl", help="in GSM8K's form: question, answer with #### n")
        add("--shots", type=Path, metavar="FILE.jsonl", help="worked examples shown before each problem")
        add("--text", type=Path, metavar="FILE", help="KL on this text; default: on the problems' answers")
        add("--count", type=_positive, metavar="N", help="only the first N problems")
        add("--batch", type=_positive, default=64, metavar="N", help="problems decoded together (default: 64)")
        add("--new", type=_positive, metavar="N", help="tokens of an answer at most (default: 256)")
        add("--device", default=gpu, help="default: the GPU, if any")
        add("--dtype", choices=("bfloat16", "float16", "float32"), help="default: as stored; tiny on a CPU: float32")
    add = accuracy.add_argument
    add("--recipes", nargs="+", default=list(RECIPES), metavar="NAME", help="default: all")
    add("--against", type=Path, metavar="DIR", help="compare with files of another run; exit 1 if worse")
    add("--margin", type=float, default=0.02, metavar="0.02", help="share of problems that may be lost")
    add("-o", dest="output", type=Path, required=True, metavar="DIR", help="folder to write")
    accuracy.set_defaults(run=_accuracy)
    add = layers.add_argument
    add("--recipe", required=True, metavar="NAME", help=f"of {', '.join(RECIPES)}")
    add("--share", type=_share, default=0.5, metavar="0.5", help="of the sum, for the skip list")
    add("-o", dest="output", type=Path, metavar="DIR", help="folder for the table and a plot")
    layers.set_defaults(run=_layers)
    # fmt: on
    return parser


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to 1")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
