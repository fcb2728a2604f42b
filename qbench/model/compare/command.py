"""`python -m qbench compare` of whole models: print the comparison, write it with its plots where a folder is given."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from qbench.model.compare.join import compare_models
from qbench.model.compare.read import Inputs
from qbench.model.compare.text import comparison_markdown, comparison_terminal
from qbench.model.compare.write import write_comparison
from qbench.model.sample import PATH, nemotron_nano_9b_v2


def compare_whole_models(inputs: Inputs, args: argparse.Namespace) -> int:
    """Exit code 0; what cannot be compared raises CannotCombine. Standard output holds the comparison alone."""
    if args.sample:
        inputs = replace(inputs, published=(*inputs.published, (str(PATH), nemotron_nano_9b_v2())))
    found = compare_models(
        inputs,
        baseline=args.baseline,
        allow_unequal_tokens=args.allow_unequal_tokens,
        allow_published=args.sample,
    )
    plots: tuple[str, ...] = ()
    if args.output:
        written = write_comparison(args.output, found)
        plots = tuple(path.as_posix() for path in written.shown)
        said = [*([written.note] if written.note else []), f"{len(written.files)} files in {args.output}"]
        print("\n".join(said), file=sys.stderr)
    print(comparison_markdown(found, plots) if args.markdown else comparison_terminal(found), end="")
    return 0
