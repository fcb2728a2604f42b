"""One panel of bars: GPUs from left to right, recipes beside each other within each, every bar from zero.

A recipe has one colour on all panels and a mode one hatching, so that native, weight-only and emulated kernels are told
apart even where they run under one name. What could not run has no bar but the words "n/a" and its code: a bar of no
height would be read as a measurement.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.report.figure import COLORS, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HATCHES = {"native": "", "none": "", "weight-only": "///", "emulated": "xxx", "": "..."}
MODE_NAMES = {
    "native": "native",
    "none": "not quantized",
    "weight-only": "weight-only",
    "emulated": "emulated",
    "": "mode not stated",
}
INK = "#333333"
_GROUP = 0.84  # of the distance between two GPUs; the rest keeps them apart
_LETTER = 0.068  # inches: as wide as a letter of a bar's number
_BESIDE = 0.34  # inches: as high as the two lines of a number
_PAPER: dict[str, Any] = {
    "boxstyle": "square,pad=0.1",
    "facecolor": "white",
    "edgecolor": "none",
    "alpha": 0.85,
}  # behind words


@dataclass(frozen=True)
class Bar:
    """`height` None: no bar, but `words`. low, high: ends of the whisker. tick: a line across, such as a roofline.

    pale marks the second of two bars side by side (the wall time's speedup).
    """

    gpu: str
    recipe: str
    height: float | None
    label: str = ""
    words: str = ""
    mode: str = ""
    low: float | None = None
    high: float | None = None
    tick: float | None = None
    pale: bool = False


def colors(recipes: Sequence[str]) -> dict[str, str]:
    return {recipe: COLORS[at % len(COLORS)] for at, recipe in enumerate(recipes)}


def draw_bars(axes: Axes, bars: Sequence[Bar], recipes: Sequence[str]) -> None:
    """Draw `bars`, each GPU's as wide together as any other's; `recipes` gives the order of colours."""
    gpus = list(dict.fromkeys(bar.gpu for bar in bars))
    color = colors(recipes)
    widest = max((sum(bar.gpu == gpu for bar in bars) for gpu in gpus), default=1)
    width = _GROUP / max(widest, 2)  # a lone bar is no wall
    axes.set_xlim(-0.55, max(len(gpus) - 0.45, 0.55))
    box = axes.get_window_extent()
    wide, high = box.width / axes.figure.dpi, box.height / axes.figure.dpi
    each = wide / (axes.get_xlim()[1] - axes.get_xlim()[0])  # inches from GPU to GPU
    slot, letters = width * each, max(8, int(each / 0.085))
    longest = max((len(line) for bar in bars for line in bar.label.split("\n")), default=0)
    upright = longest * _LETTER > slot  # numbers would run into each other
    needs = max((len(bar.label) for bar in bars), default=0) * _LETTER + 0.2 if upright else _BESIDE + 0.15
    near = _limits(axes, bars, needs / high) * needs / high
    for at, gpu in enumerate(gpus):
        mine = [bar for bar in bars if bar.gpu == gpu]
        for place, bar in enumerate(mine):
            x = at + (place - (len(mine) - 1) / 2) * width
            _draw(axes, bar, x, width, color[bar.recipe], upright=upright, near=near)
    axes.axhline(0, color=INK, lw=0.8, zorder=3)
    axes.set_xticks(range(len(gpus)), [_broken(gpu, letters) for gpu in gpus], fontsize=9)
    axes.tick_params(axis="x", length=0)
    axes.tick_params(axis="y", labelsize=9)
    axes.grid(True, axis="y", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _broken(gpu: str, letters: int) -> str:
    """A GPU's name in short lines, for names stand beside each other."""
    lines = gpu.removeprefix("NVIDIA ").replace(" [", "\n[").replace(" (", "\n(").split("\n")
    return plain("\n".join(part for line in lines for part in textwrap.wrap(line, letters)))


def _draw(axes: Axes, bar: Bar, x: float, width: float, color: str, *, upright: bool, near: float) -> None:
    """`near`: as close to a tick, in units of y, a number would be struck through."""
    if bar.height is None:
        at = axes.get_xaxis_transform()  # y as a share of the panel
        axes.text(
            x,
            0.02,
            plain(bar.words),
            transform=at,
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=8,
            color=INK,
            bbox=_PAPER,
            zorder=6,
        )
        return
    axes.bar(
        x,
        bar.height,
        width * 0.92,
        color=_paler(color) if bar.pale else color,
        edgecolor=color if bar.pale else "white",
        hatch=HATCHES[bar.mode],
        lw=1.2 if bar.pale else 0.0,
        zorder=2,
    )
    top, bottom = bar.height, bar.height
    if bar.low is not None and bar.high is not None:
        reach = [[max(0.0, bar.height - bar.low)], [max(0.0, bar.high - bar.height)]]
        axes.errorbar(x, bar.height, yerr=reach, color=INK, lw=1.1, capsize=3, zorder=4)
        top, bottom = max(top, bar.high), min(bottom, bar.low)
    if bar.tick is not None:
        axes.plot([x - width * 0.46, x + width * 0.46], [bar.tick, bar.tick], color="black", lw=2.2, zorder=5)
        if top - near < bar.tick < top + near:
            top = max(top, bar.tick)
    below = bar.height < 0
    axes.annotate(
        plain(_on_one_line(bar.label) if upright else bar.label),
        (x, bottom if below else top),
        (0, -4 if below else 4),
        textcoords="offset points",
        ha="center",
        va="top" if below else "bottom",
        fontsize=8 if upright else 8.5,
        rotation=90 if upright else 0,
        color=INK,
        zorder=6,
        bbox=_PAPER,
    )


def _on_one_line(label: str) -> str:
    first, *others = label.split("\n")
    return f"{first} ({', '.join(others)})" if others else first


def _limits(axes: Axes, bars: Sequence[Bar], room: float) -> float:
    """From zero, with `room` (a share of the panel) for numbers above, and below where bars hang. Returns y's span."""
    values = [v for bar in bars if bar.height is not None for v in (bar.height, bar.low, bar.high, bar.tick)]
    reach = [value for value in values if value is not None]
    if not any(reach):
        axes.set_ylim(0.0, 1.0)
        axes.set_yticks([0.0] if reach else [])
        return 1.0
    top, bottom = max(0.0, *reach), min(0.0, *reach)
    hang = any(bar.height is not None and bar.height < 0 for bar in bars)
    stand = any(bar.height is not None and bar.height >= 0 for bar in bars)
    span = (top - bottom) / (1 - max(0.05, room * stand) - max(0.05 * (bottom < 0), room * hang))
    axes.set_ylim(bottom - max(0.05 * (bottom < 0), room * hang) * span, top + max(0.05, room * stand) * span)
    return span


def _paler(color: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(color)
    return 1 - (1 - red) * 0.35, 1 - (1 - green) * 0.35, 1 - (1 - blue) * 0.35
