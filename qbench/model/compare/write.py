"""A comparison into a folder: comparison.md and its plots, under names that cannot collide."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qbench.model.compare.figures import accuracy_png, combined_png, throughput_png
from qbench.model.compare.join import Comparison
from qbench.model.compare.text import comparison_markdown
from qbench.report.plots import have_matplotlib
from qbench.result import write_atomic

NO_PLOTS = "no plots: matplotlib is not installed; pip install 'pytest-qbench[plots]'"


PAGE = "comparison.md"
PUBLISHED = "published"


@dataclass(frozen=True)
class Written:
    """All files, the plots that a page shows, and a line to say when there are no plots."""

    files: tuple[Path, ...]
    shown: tuple[Path, ...]
    note: str


@dataclass(frozen=True)
class Plot:
    """What it shows, which names its file, and how it is drawn."""

    kind: str
    about: tuple[str, ...]
    draw: Callable[[], bytes]


def plots(comparison: Comparison) -> Iterator[Plot]:
    """For each workload throughput, for each task accuracy, and both on a page where one model has both."""
    for group in comparison.groups:
        published = all(row.entry.published for row in group.rows)
        about = (group.model, *([PUBLISHED] if published else []), str(group.workload))
        yield Plot("throughput", about, partial(throughput_png, comparison, group))
        for task in comparison.accuracy:
            if (task.model, task.published) == (group.model, published):
                yield Plot("combined", (*about, task.task), partial(combined_png, comparison, group, task))
    for task in comparison.accuracy:
        about = (task.model, *([PUBLISHED] if task.published else []), task.task)
        yield Plot("accuracy", about, partial(accuracy_png, comparison, task))


def plot_names(made: list[Plot]) -> list[str]:
    """`combined_Llama-3.1-8B_batch-1_prompt-512_new-128_gsm8k.png`; a digest where two would be alike."""
    stems = [_stem(plot) for plot in made]
    folded = [stem.casefold() for stem in stems]
    return [
        f"{stem}.png" if folded.count(stem.casefold()) == 1 else f"{stem}_{_digest(plot)}.png"
        for stem, plot in zip(stems, made, strict=True)
    ]


def write_comparison(directory: Path, comparison: Comparison) -> Written:
    """Write comparison.md and every plot; a page shows the combined ones where there are some."""
    made = list(plots(comparison)) if have_matplotlib() else []
    names = plot_names(made)
    for name, plot in zip(names, made, strict=True):
        write_atomic(directory / name, plot.draw())
    combined = {
        part for plot in made if plot.kind == "combined" for part in (plot.about[:-1], _task_of(plot))
    }
    shown = [
        name
        for name, plot in zip(names, made, strict=True)
        if plot.kind == "combined"
        or (_task_of(plot) if plot.kind == "accuracy" else plot.about) not in combined
    ]
    write_atomic(directory / PAGE, comparison_markdown(comparison, tuple(shown)).encode())
    files = (directory / PAGE, *(directory / name for name in names))
    return Written(files, tuple(directory / name for name in shown), "" if have_matplotlib() else NO_PLOTS)


def _task_of(plot: Plot) -> tuple[str, str, str]:
    """Model, whether published, task: of a combined plot the accuracy's."""
    return plot.about[0], plot.about[1] if plot.about[1] == PUBLISHED else "", plot.about[-1]


def _stem(plot: Plot) -> str:
    words = [
        re.sub(r"[^A-Za-z0-9.+_-]+", "-", word.replace(", ", "_").rsplit("/", 1)[-1]) for word in plot.about
    ]
    return "_".join([plot.kind, *words])[:180]


def _digest(plot: Plot) -> str:
    return hashlib.sha256(repr((plot.kind, plot.about)).encode()).hexdigest()[:12]
