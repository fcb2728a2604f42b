"""Whole models compared across runs and GPUs: throughput, wall time, accuracy. Reads stored files, measures nothing."""

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
