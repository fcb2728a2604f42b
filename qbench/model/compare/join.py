"""Whole models across runs and GPUs, joined on model, recipe and workload. Values in, values out.

Speedups are taken within one GPU, against the baseline recipe at the same workload: in tokens/s and in wall time, both,
for the two differ when the counts of tokens do, or when the prompt takes its share. An emulated recipe (decoded anew
each step) has times but no speedup: its time is that of the emulation. Nothing is judged here; see qbench.verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from qbench.compare import CannotCombine
from qbench.model.compare.accuracy import AccuracyGroup, accuracy_groups
from qbench.model.compare.entries import Entry, Workload, gpu_name, published_entries, run_entries
from qbench.model.compare.read import Inputs
from qbench.model.compare.tokens import UnequalTokens, check_tokens
from qbench.result import Run

BASELINE = "bf16"
MUST_AGREE = ("torch", "triton", "transformers", "cuda", "driver")


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


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown. Warnings must be read before the numbers; notes explain them."""

    baseline: str
    groups: tuple[Group, ...]
    accuracy: tuple[AccuracyGroup, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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
    warnings += [*_modes(entries), *_versions([run for _, run in inputs.runs])]
    others = sum(not result.op.startswith("model_") for _, run in inputs.runs for result in run.results)
    notes = [
        note for _, table in inputs.published for note in (f"{table.title}. {table.source}", *table.notes)
    ]
    notes += [f"{others} results of other operations are not shown here"] if others else []
    ordered = sorted(groups, key=lambda group: (group.model, *_sizes(group.workload)))
    return Comparison(
        baseline, tuple(ordered), accuracy, tuple(dict.fromkeys(warnings)), tuple(dict.fromkeys(notes))
    )


def gather(inputs: Inputs) -> list[Entry]:
    """All entries. Runs of one GPU are parts of one side, unless they measured the same thing: then each is a side."""
    by_gpu: dict[str, list[tuple[str, list[Entry]]]] = {}
    keys: dict[str, str] = {}
    for source, run in inputs.runs:
        gpu = gpu_name(run.device)
        if keys.setdefault(gpu, run.device.key) != run.device.key:  # one name and capability, another chip
            gpu = f"{gpu[:-1]}, {run.device.units} SMs, {run.device.memory_gib} GiB)"
        by_gpu.setdefault(gpu, []).append((source, run_entries(run, gpu, source)))
    entries: list[Entry] = []
    for parts in by_gpu.values():
        every = [_key(entry) for _, part in parts for entry in part]
        if len(set(every)) == len(every):
            entries += [entry for _, part in parts for entry in part]
            continue
        for name, (_, part) in zip(_apart([source for source, _ in parts]), parts, strict=True):
            entries += [replace(entry, gpu=f"{entry.gpu} [{name}]") for entry in part]
    for _, table in inputs.published:
        entries += published_entries(table)
    return entries


def _known(baseline: str, recipes: Sequence[str]) -> None:
    """The default may be missing, and then there are no speedups; another one was meant."""
    if baseline != BASELINE and baseline not in recipes:
        known = ", ".join(dict.fromkeys(recipes))
        raise CannotCombine(f"no recipe {baseline!r} to compare with in these files; they hold {known}")


def _key(entry: Entry) -> tuple[str, str, str, Workload]:
    return entry.gpu, entry.model, entry.recipe, entry.workload


def _apart(sources: Sequence[str]) -> list[str]:
    """The shortest ends of the paths that tell them apart: folders, for results.json is what most files are called."""
    parts = [PurePath(source).with_suffix("").parts for source in sources]
    for length in range(1, max(len(each) for each in parts) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise CannotCombine(f"{sources[0]} was given twice; give each file once")


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
        if (e.workload.batch, e.workload.prompt) == (mine.batch, mine.prompt) and e.tokens_per_s
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
    wall = base.wall_s / entry.wall_s if base.wall_s and entry.wall_s else None
    return Row(entry, Speedup(entry.tokens_per_s / base.tokens_per_s, wall))


def _ordered(rows: Sequence[Row], baseline: str) -> tuple[Row, ...]:
    gpus = list(dict.fromkeys(row.entry.gpu for row in rows))
    return tuple(sorted(rows, key=lambda row: (gpus.index(row.entry.gpu), row.entry.recipe != baseline)))


def _sizes(workload: Workload) -> tuple[int, int, int]:
    return workload.batch or 0, workload.prompt or 0, workload.new or 0


def _modes(entries: Iterable[Entry]) -> list[str]:
    """One recipe's name over different kernels compares kernels as well as GPUs."""
    modes: dict[tuple[str, str], dict[str, str]] = {}
    for entry in entries:
        if entry.problem is None:
            modes.setdefault((entry.model, entry.recipe), {}).setdefault(
                entry.mode or "not stated", entry.gpu
            )
    return [
        f"DIFFERENT KERNELS UNDER ONE NAME: {recipe} of {model} is {_all(f'{m} on {gpu}' for m, gpu in found.items())}"
        for (model, recipe), found in modes.items()
        if len(found) > 1
    ]


def _versions(runs: Sequence[Run]) -> list[str]:
    said = []
    for name in MUST_AGREE:
        values = dict.fromkeys(run.versions[name] for run in runs if name in run.versions)
        if len(values) > 1:
            said.append(f"DIFFERENT VERSIONS: {name} {_all(values)}")
    return said


def _all(words: Iterable[str]) -> str:
    return " and ".join(words)
