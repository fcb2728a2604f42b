"""The options of `python -m qbench compare` that are about whole models. Light: every command line loads it."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Any of them, or anything about whole models in the files, and whole models are compared."""
    group = command.add_argument_group("whole models (files with model_prefill or model_decode results)")
    group.add_argument(
        "--baseline", default="bf16", metavar="RECIPE", help="speedups are over it (default: bf16)"
    )
    group.add_argument(
        "--allow-unequal-tokens",
        action="store_true",
        help="warn instead of refusing; speedups in wall time stand beside those in tokens/s",
    )
    group.add_argument("--markdown", action="store_true", help="print a Markdown section, as for a README")
    group.add_argument(
        "-o", dest="output", type=Path, metavar="DIR", help="write comparison.md and the plots there"
    )
    group.add_argument(
        "--sample", action="store_true", help="add a published table, whose counts are unequal"
    )


def options_given(args: argparse.Namespace) -> bool:
    """Was anything asked for that only a comparison of whole models has?"""
    return bool(
        args.sample or args.markdown or args.output or args.allow_unequal_tokens or args.baseline != "bf16"
    )
