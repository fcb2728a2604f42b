"""Whole models compared across runs and GPUs: throughput, wall time, accuracy. Reads stored files, measures nothing.

The names below are imported when first asked for: every command line loads this package's options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.later import later

if TYPE_CHECKING:
    from qbench.model.compare.entries import Entry, Problem, Workload
    from qbench.model.compare.join import Comparison, compare_models
    from qbench.model.compare.read import Inputs, read_inputs
    from qbench.model.compare.text import comparison_markdown, comparison_terminal
    from qbench.model.compare.tokens import UnequalTokens

__all__ = [
    "Comparison",
    "Entry",
    "Inputs",
    "Problem",
    "UnequalTokens",
    "Workload",
    "compare_models",
    "comparison_markdown",
    "comparison_terminal",
    "read_inputs",
]

_HOME = {
    **dict.fromkeys(("Entry", "Problem", "Workload"), "entries"),
    **dict.fromkeys(("Comparison", "compare_models"), "join"),
    **dict.fromkeys(("Inputs", "read_inputs"), "read"),
    **dict.fromkeys(("comparison_markdown", "comparison_terminal"), "text"),
    "UnequalTokens": "tokens",
}

__getattr__ = later(__name__, _HOME)
