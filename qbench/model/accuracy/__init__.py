"""How right a model stays: problems solved, compared per problem; perplexity, KL and agreement per token.

Knows nothing of quantization: two models, or one and what was stored of it. The names below are imported when first
asked for, because some need torch and reading stored files does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.later import later

if TYPE_CHECKING:
    from qbench.model.accuracy.decode import Answers, exact_match
    from qbench.model.accuracy.likelihood import (
        Estimate,
        Likelihood,
        answer_windows,
        divergence,
        divergence_from,
        perplexity,
        reference_logits,
        text_windows,
        windows,
    )
    from qbench.model.accuracy.mcnemar import Paired, paired
    from qbench.model.accuracy.measuring import measure
    from qbench.model.accuracy.problems import Problem, digest, read_problems
    from qbench.model.accuracy.rule import Finding, Judged, detectable, judge
    from qbench.model.accuracy.store import Accuracy, compare, markdown, read_accuracy, write_accuracy

__all__ = [
    "Accuracy",
    "Answers",
    "Estimate",
    "Finding",
    "Judged",
    "Likelihood",
    "Paired",
    "Problem",
    "answer_windows",
    "compare",
    "detectable",
    "digest",
    "divergence",
    "divergence_from",
    "exact_match",
    "judge",
    "markdown",
    "measure",
    "paired",
    "perplexity",
    "read_accuracy",
    "read_problems",
    "reference_logits",
    "text_windows",
    "windows",
    "write_accuracy",
]

_HOME = {
    **dict.fromkeys(("Answers", "exact_match"), "decode"),
    **dict.fromkeys(("Estimate", "Likelihood", "divergence_from", "divergence", "perplexity"), "likelihood"),
    **dict.fromkeys(("answer_windows", "reference_logits", "text_windows", "windows"), "likelihood"),
    **dict.fromkeys(("Paired", "paired"), "mcnemar"),
    "measure": "measuring",
    **dict.fromkeys(("Problem", "digest", "read_problems"), "problems"),
    **dict.fromkeys(("Finding", "Judged", "detectable", "judge"), "rule"),
    **dict.fromkeys(("Accuracy", "compare", "markdown", "read_accuracy", "write_accuracy"), "store"),
}

__getattr__ = later(__name__, _HOME)
