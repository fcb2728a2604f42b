"""One sheet drawn: throughput against the x axis, with the ceilings this machine measured of itself."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from qbench.report.cells import number, rate_of
from qbench.report.sheets import Line, Sheet
from qbench.result import Result, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito 2008: eight colours that colour-blind readers can tell apart; the marker changes with the round.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_CEILING = "#777777"
_TICK_LETTERS = 40  # more than this under the axis is written aslant
_WIDE = 20.0  # a larger span of throughput is drawn on a log scale: small batches would lie on the axis


def plot_png(run: Run, sheet: Sheet) -> bytes:
    """Draw one sheet: x on a log2 scale, bars from p20 to p80, dashed ceilings, each line named at its end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    beside = (
        max((len(line.label) for line in sheet.lines), default=0) * 0.085
    )  # inches of labels at the right
    figure = Figure(figsize=(8 + beside, 5.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    unit, rate = rate_of(sheet)
    place: dict[Any, float] = {x: float(x) if sheet.numeric else i for i, x in enumerate(sheet.xs)}
    drawn: list[tuple[str, str, float, float]] = []  # label, colour, x and y of its last point
    rates: list[float] = []
    for count, line in enumerate(sheet.lines):
        timed = [point for point in line.points if rate(point.result)]
        if not timed:
            continue
        # NaN where there is no time: the line breaks there, instead of bridging a case that failed.
        ys = [rate(point.result) or math.nan for point in line.points]
        bars = [_bar(point.result, y) for point, y in zip(line.points, ys, strict=True)]
        label, color = plain(line.label), COLORS[count % len(COLORS)]
        axes.errorbar(
            [place[point.x] for point in line.points],
            ys,
            yerr=[[low for low, _ in bars], [high for _, high in bars]],
            label=label,
            color=color,
            marker=_MARKERS[count // len(COLORS) % len(_MARKERS)],
            ls="-" if sheet.numeric else "none",
            ms=5,
            lw=1.6,
            capsize=2.5,
        )
        drawn.append((label, color, place[timed[-1].x], rate(timed[-1].result) or math.nan))
        rates += [y for y in ys if y > 0]
    rates += _ceilings(axes, run, sheet, unit, place)
    _scales(axes, sheet, list(place.values()), rates)
    axes.set_xlabel(plain(sheet.x or "case"))
    axes.set_ylabel(f"throughput [{unit}], median with p20–p80")
    axes.set_title(plain(f"{run.device.name}\n{sheet.title}"), fontsize=11, loc="left")
    axes.grid(True, which="major", color="#dddddd", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    _legends(figure, axes, [] if sheet.numeric else [label for label, _, _, _ in drawn])
    out = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that the font lacks is drawn as a box
        if sheet.numeric:
            _label_ends(axes, drawn)
        figure.savefig(out, format="png", bbox_inches="tight", pad_inches=0.15)
    return out.getvalue()


def _legends(figure: Figure, axes: Axes, lines: list[str]) -> None:
    """Ceilings below the plot; `lines`, where they cannot be named at their ends, at its right."""
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    dashed = [
        label for label, handle in named.items() if getattr(handle, "get_linestyle", str)() in ("--", ":")
    ]
    if dashed:
        figure.legend(
            [named[label] for label in dashed],
            dashed,
            loc="outside lower center",
            ncols=len(dashed),
            frameon=False,
            fontsize=8,
        )
    if lines:
        figure.legend(
            [named[label] for label in lines], lines, loc="outside right upper", frameon=False, fontsize=9
        )


def _bar(result: Result, rate: float) -> tuple[float, float]:
    """Reach below and above the median's rate; the slow p80 is the low end."""
    times = result.times
    if times is None:
        return math.nan, math.nan
    low, high = rate * times.median_ns / times.p80_ns, rate * times.median_ns / times.p20_ns
    return max(0.0, rate - low), max(0.0, high - rate)


def _scales(axes: Axes, sheet: Sheet, xs: list[float], rates: list[float]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    def text(value: float, position: int) -> str:
        return f"{value:.12g}"

    ticks = _thinned(xs) if sheet.numeric else xs
    texts = [text(x, 0) for x in ticks] if sheet.numeric else [plain(str(x)) for x in sheet.xs]
    if sheet.numeric and min(xs) > 0:
        axes.set_xscale("log", base=2)
        axes.set_xlim(min(xs) / 1.25, max(xs) * 1.25)
    elif not sheet.numeric:
        axes.set_xlim(-0.5, len(xs) - 0.5)
    axes.xaxis.set_minor_locator(NullLocator())
    if len("".join(texts)) > _TICK_LETTERS:
        axes.set_xticks(ticks, texts, rotation=35, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(ticks, texts)
    if max(rates) / min(rates) > _WIDE:
        axes.set_yscale("log")
        axes.set_ylim(top=1.6 * max(rates))
        axes.yaxis.set_major_formatter(FuncFormatter(text))
    else:
        axes.set_ylim(bottom=0)


def _thinned(xs: list[float], apart: float = 1.55) -> list[float]:
    """Ticks that keep their distance on a log scale: of 16384, 24576, 32768 the middle one goes."""
    if min(xs) <= 0:
        return xs
    kept = [xs[0]]
    for x in xs[1:]:
        if x >= kept[-1] * apart:
            kept.append(x)
    return kept


def _ceilings(axes: Axes, run: Run, sheet: Sheet, unit: str, place: dict[Any, float]) -> list[float]:
    """Dashed: the matrix rates, and what the memory's bandwidth allows for the bytes this operation declares.

    Returns the heights that the scale has to reach.
    """
    if run.ceilings is None:
        return []
    gbps, top = run.ceilings.memory_gbps, run.ceilings.matmul_tflops
    copy = f"{'copy' if gbps == run.ceilings.copy_gbps else 'read'}, {number(gbps)} GB/s"
    if unit == "GB/s":
        axes.axhline(gbps, color=_CEILING, ls="--", lw=1.2, zorder=1, label=copy)
        return [gbps]
    declared = {result.accumulator for result in sheet.results if result.times}
    others = {name: rate for name, rate in run.ceilings.by_accumulator.items() if name in declared}
    for name, rate in {f"{run.ceilings.matmul_dtype} matmul": top, **others}.items():
        text = f"{name}, {number(rate)} TFLOP/s"
        axes.axhline(rate, color=_CEILING, ls="--", lw=1.2, zorder=1, label=text)
    top = max([top, *others.values()])
    own: Line | None = next((line for line in sheet.lines if line.own), None)
    if own is None or not sheet.numeric:
        return [top]
    reach = [
        (place[point.x], point.result.flops / point.result.bytes * gbps / 1e3)
        for point in own.points
        if point.result.bytes and point.result.flops
    ]
    below = [index for index, (_, rate) in enumerate(reach) if rate < top]
    if len(reach) < 2 or not below:
        return [top]
    curve = reach[: below[-1] + 2]  # up to the first point where the matrix rate takes over
    text = plain(f"{copy}, at the bytes of {sheet.op}")
    axes.plot(*zip(*curve, strict=True), color=_CEILING, ls=":", lw=1.6, zorder=1, label=text, scaley=False)
    return [top]


def _label_ends(axes: Axes, drawn: list[tuple[str, str, float, float]]) -> None:
    """Name each line right of the plot at the height where it ends, pushed apart so that all can be read."""
    if not drawn:
        return
    axes.figure.canvas.draw()
    height = axes.get_window_extent().height
    step = 13.0 / 72 * axes.figure.dpi / height  # a line of text, as a share of the axes
    ends = []
    for label, color, x, y in drawn:
        _, at = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
        ends.append((min(max(float(at), 0.0), 1.0), label, color, (x, y)))
    ends.sort(key=lambda end: end[0])
    heights = spread([end[0] for end in ends], step)
    for at, (_, label, color, point) in zip(heights, ends, strict=True):
        axes.annotate(
            label,
            xy=point,
            xytext=(1.03, at),
            textcoords="axes fraction",
            color=color,
            fontsize=9,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "lw": 0.6,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def spread(wanted: Sequence[float], step: float) -> list[float]:
    """Ascending heights at least `step` apart and as near to the wanted ones as a sweep up and down gives."""
    placed: list[float] = []
    for value in wanted:
        placed.append(value if not placed else max(value, placed[-1] + step))
    top = max(1.0, step * (len(placed) - 1))
    for index in reversed(range(len(placed))):
        limit = top if index == len(placed) - 1 else placed[index + 1] - step
        placed[index] = min(placed[index], limit)
    return placed


def plain(text: str) -> str:
    """Text that matplotlib draws as it stands: no formula between dollars, no label hidden by an underscore."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
