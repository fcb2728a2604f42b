"""All entries of a comparison, each under the side it belongs to, and what makes sides hard to compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import PurePath

from qbench.compare import CannotCombine
from qbench.model.compare.entries import Entry, Workload
from qbench.model.compare.measured import published_entries, run_entries
from qbench.model.compare.read import Inputs
from qbench.result import PREEMPTED, Run

MUST_AGREE = ("torch", "triton", "transformers", "cuda", "driver")


def gather(inputs: Inputs) -> list[Entry]:
    """All entries. Runs of one GPU are parts of one side, unless they measured the same thing: then each is a side."""
    by_gpu: dict[str, list[tuple[str, list[Entry]]]] = {}
    for source, run in inputs.runs:
        gpu = inputs.gpus[run.device.key]
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


def different_modes(entries: Iterable[Entry]) -> list[str]:
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


def different_methods(entries: Iterable[Entry]) -> list[str]:
    """A step in one compiled graph and one run op by op differ by more than most recipes do."""
    methods: dict[str, Entry] = {}
    for entry in entries:
        if entry.problem is None and entry.method:
            methods.setdefault(entry.method, entry)
    found = [f"{method} ({entry.recipe} on {entry.gpu})" for method, entry in methods.items()]
    return [f"TIMED DIFFERENTLY: {_all(found)}"] if len(found) > 1 else []


def disturbed(entries: Iterable[Entry]) -> list[str]:
    """By GPU: recipes of one workload during which the card was slowed down, and why, or the host had lost its CPU."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.throttle:
            found.setdefault(entry.gpu, []).append(entry)
    said = []
    for gpu, slow in found.items():
        hot = {entry.recipe: [why for why in entry.throttle if why != PREEMPTED] for entry in slow}
        if why := dict.fromkeys(chain.from_iterable(hot.values())):
            said.append(
                f"THROTTLED on {gpu} ({', '.join(why)}): {', '.join(r for r, each in hot.items() if each)}"
            )
        if taken := dict.fromkeys(entry.recipe for entry in slow if PREEMPTED in entry.throttle):
            said.append(
                f"THE HOST'S CPU WAS TAKEN by other processes on {gpu}, run again: {', '.join(taken)}"
            )
    return said


def different_versions(runs: Sequence[Run]) -> list[str]:
    """Of what can change a time."""
    said = []
    for name in MUST_AGREE:
        values = dict.fromkeys(run.versions[name] for run in runs if name in run.versions)
        if len(values) > 1:
            said.append(f"DIFFERENT VERSIONS: {name} {_all(values)}")
    return said


def _all(words: Iterable[str]) -> str:
    return " and ".join(words)
