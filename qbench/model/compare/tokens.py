"""Are the same number of tokens behind two speeds?

Tokens/s of runs that made different numbers of tokens compare different work: the longer run reads a longer cache, and
spreads its prompt over more tokens. A published 1.11× in tokens/s was 0.96× in wall time. So unequal counts are
refused, and shown only on request, with the wall time beside.
"""

from __future__ import annotations

from collections.abc import Sequence

from qbench.compare import CannotCombine
from qbench.model.compare.entries import Entry


class UnequalTokens(CannotCombine):
    """Two entries of one comparison made different numbers of tokens: names both."""


def check_tokens(entries: Sequence[Entry], *, allow: bool) -> list[str]:
    """Compare every count with the first of one workload. Returns warnings where `allow`, else raises UnequalTokens.

    An entry that does not say how many tokens it made is refused as well, unless allowed.
    """
    warnings = []
    timed = [entry for entry in entries if entry.tokens_per_s is not None]
    silent = [entry for entry in timed if entry.tokens is None]
    for entry in silent:
        said = f"{entry.place} does not say how many tokens it made"
        if not allow:
            raise UnequalTokens(f"{said}; measure it again, or give --allow-unequal-tokens")
        warnings.append(f"UNKNOWN TOKEN COUNT: {said}; tokens/s may compare different work")
    counted = [entry for entry in timed if entry.tokens is not None]
    if counted and (different := [entry for entry in counted if not same_count(counted[0], entry)]):
        first, other = counted[0], different[0]
        said = f"{first.recipe} on {first.gpu} made {count(first)} tokens, {other.recipe} on {other.gpu} {count(other)}"
        where = f"{first.model}, {first.workload}"
        if not allow:
            raise UnequalTokens(
                f"unequal token counts: {said} ({where}); measure both with a fixed count, or give "
                "--allow-unequal-tokens to see wall time beside tokens/s"
            )
        warnings.append(
            f"UNEQUAL TOKEN COUNTS: {said} ({where}); tokens/s compares different work, so read the wall time"
        )
    return warnings


def same_count(a: Entry, b: Entry) -> bool:
    """Counts must be equal; those derived from rounded numbers, as far as these tell."""
    if a.tokens is None or b.tokens is None:
        return False
    return abs(a.tokens - b.tokens) <= a.slack * a.tokens + b.slack * b.tokens


def count(entry: Entry) -> str:
    if entry.tokens is None:
        return "?"
    return f"{'about ' if entry.slack else ''}{entry.tokens:.0f}"
