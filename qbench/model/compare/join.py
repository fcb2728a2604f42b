"""Whole models across runs and GPUs, joined on model, recipe and workload. Values in, values out.

Speedups are taken within one GPU, against the baseline recipe at the same workload: in tokens/s and in wall time, both,
for the two differ when the counts of tokens do, or when the prompt takes its share. An emulated recipe (decoded anew
each step) has times but no speedup: its time is that of the emulation. Nothing is judged here; see qbench.verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qbench.compare import CannotCombine
from qbench.model.compare.accuracy import AccuracyGroup, accuracy_groups
from qbench.model.compare.entries import Entry, Workload
from qbench.model.compare.gather import (
    different_methods,
    different_modes,
    different_versions,
    disturbed,
    gather,
)
from qbench.model.compare.read import Inputs
from qbench.model.compare.tokens import UnequalTokens, check_tokens

BASELINE = "bf16"


@dataclass(frozen=True)
class Speedup:
    """Over the baseline: above 1 is faster. `wall` is None where a wall time is missing."""

    tokens_per_s: float
    wall: float | None


@dataclass(frozen=True)
class Row:
    """One recipe on one GPU. Without a speedup `why` says why: "baseline", "emulated", "no bf16", "" for a problem."""

    entry: Entry
    speedup: Speedup | None
    why: str = ""


@dataclass(frozen=True)
class Group:
    """One model at one workload: rows by GPU, then recipe, the baseline first."""

    model: str
    workload: Workload
    rows: tuple[Row, ...]

    @property
    def gpus(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.entry.gpu for row in self.rows))

    @property
    def disturbed(self) -> tuple[str, ...]:
        return tuple(disturbed(row.entry for row in self.rows))


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown. Warnings must be read before the numbers; notes explain them.

    A workload whose runs were disturbed says so itself (`Group.disturbed`); `loud` has all of them.
    """

    baseline: str
    groups: tuple[Group, ...]
    accuracy: tuple[AccuracyGroup, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def loud(self) -> tuple[str, ...]:
        each = [
            f"{said} ({group.model}, {group.workload})" for group in self.groups for said in group.disturbed
        ]
        return (*self.warnings, *each)

    @property
    def recipes(self) -> tuple[str, ...]:
        """All, the baseline first: their order and colours are the same everywhere."""
        named = [row.entry.recipe for group in self.groups for row in group.rows]
        named += [row.recipe for group in self.accuracy for row in group.rows]
        return tuple(sorted(dict.fromkeys(named), key=lambda recipe: recipe != self.baseline))


def compare_models(
    inputs: Inputs,
    *,
    baseline: str = BASELINE,
    allow_unequal_tokens: bool = False,
    allow_published: bool = False,
) -> Comparison:
    """Join everything that was read. `allow_published` lets published lines, and no others, have unequal counts.

    Raises UnequalTokens for different token counts (allowed: a warning), and CannotCombine for accuracies of different
    problems, one thing measured twice, or files without anything about whole models.
    """
    if not inputs.has_models:
        names = ", ".join(name for name, _ in inputs.runs) or "no file"
        raise CannotCombine(
            f"no model_decode or model_prefill results in {names}; compare two runs, or give others"
        )
    entries = gather(inputs)
    accuracy = accuracy_groups(inputs, baseline)
    _known(
        baseline, [*(e.recipe for e in entries), *(row.recipe for group in accuracy for row in group.rows)]
    )
    groups: list[Group] = []
    warnings: list[str] = []
    for model, workload in dict.fromkeys((entry.model, entry.workload) for entry in entries):
        members = [entry for entry in entries if (entry.model, entry.workload) == (model, workload)]
        known = allow_published and all(entry.published for entry in members)
        warnings += check_tokens(members, allow=allow_unequal_tokens or known)
        rows = []
        for entry in members:
            base, said = _baseline_of(entry, entries, baseline, allow=allow_unequal_tokens)
            warnings += said
            rows.append(_row(entry, base, baseline))
        groups.append(Group(model, workload, _ordered(rows, baseline)))
    warnings += [*different_modes(entries), *different_methods(entries)]
    warnings += different_versions([run for _, run in inputs.runs])
    others = sum(not result.op.startswith("model_") for _, run in inputs.runs for result in run.results)
    notes = [
        note for _, table in inputs.published for note in (f"{table.title}. {table.source}", *table.notes)
    ]
    if others:
        notes.append(f"{others} results are of other operations, which two runs compare case by case")
    ordered = sorted(groups, key=lambda group: (group.model, *_sizes(group.workload)))
    return Comparison(
        baseline, tuple(ordered), accuracy, tuple(dict.fromkeys(warnings)), tuple(dict.fromkeys(notes))
    )


def _known(baseline: str, recipes: Sequence[str]) -> None:
    """The default may be missing, and then there are no speedups; another one was meant."""
    if baseline != BASELINE and baseline not in recipes:
        known = ", ".join(dict.fromkeys(recipes))
        raise CannotCombine(f"no recipe {baseline!r} to compare with in these files; they hold {known}")


def _baseline_of(
    entry: Entry, entries: Sequence[Entry], baseline: str, *, allow: bool
) -> tuple[Entry | None, list[str]]:
    """The baseline recipe on the same GPU at the same workload.

    Where there is none but one that decoded another number of tokens, the counts are unequal: an error, or used if
    allowed.
    """
    here = [
        e
        for e in entries
        if (e.gpu, e.model, e.recipe) == (entry.gpu, entry.model, baseline) and not e.problem
    ]
    same = next((e for e in here if e.workload == entry.workload), None)
    if same or entry.problem or entry.tokens_per_s is None:
        return same, []
    mine = entry.workload
    near = [
        e
        for e in here
        if (e.workload.batch, e.workload.prompt, e.workload.step) == (mine.batch, mine.prompt, mine.step)
        and e.tokens_per_s
    ]
    if not near:
        return None, []
    said = (
        f"{entry.recipe} decoded {mine.new} tokens, {baseline} {near[0].workload.new} "
        f"({entry.model} on {entry.gpu}, batch {mine.batch}, prompt {mine.prompt})"
    )
    if not allow:
        raise UnequalTokens(
            f"unequal token counts: {said}; measure both with a fixed count, or give --allow-unequal-tokens "
            "to see wall time beside tokens/s"
        )
    return near[0], [f"UNEQUAL TOKEN COUNTS: {said}; tokens/s compares different work, so read the wall time"]


def _row(entry: Entry, base: Entry | None, baseline: str) -> Row:
    if entry.problem or entry.tokens_per_s is None:
        return Row(entry, None)
    if entry.recipe == baseline:
        return Row(entry, None, "baseline")
    if entry.mode == "emulated":
        return Row(entry, None, "emulated")
    if base is None or base.tokens_per_s is None:
        return Row(entry, None, f"no {baseline}")
    alike = base.whole == entry.whole  # both with their prefill, or both without
    wall = base.wall_s / entry.wall_s if base.wall_s and entry.wall_s and alike else None
    return Row(entry, Speedup(entry.tokens_per_s / base.tokens_per_s, wall))


def _ordered(rows: Sequence[Row], baseline: str) -> tuple[Row, ...]:
    """By GPU, and within each in one order of recipes, whatever the order of the files."""
    gpus = list(dict.fromkeys(row.entry.gpu for row in rows))
    recipes = list(dict.fromkeys([baseline, *(row.entry.recipe for row in rows)]))
    return tuple(sorted(rows, key=lambda row: (gpus.index(row.entry.gpu), recipes.index(row.entry.recipe))))


def _sizes(workload: Workload) -> tuple[int, int, int, str]:
    return workload.batch or 0, workload.prompt or 0, workload.new or 0, workload.step
