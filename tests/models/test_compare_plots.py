"""Plots of whole models: bars from zero, both speedups, rooflines, modes told apart, "n/a" where there is no number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from qbench.model.compare import Comparison, Inputs, compare_models, figures, panels, write
from qbench.model.compare.bars import Bar, colors
from qbench.model.compare.figures import accuracy_png, combined_png, throughput_png
from qbench.model.compare.write import Plot, plot_names, write_comparison
from qbench.model.sample import nemotron_nano_9b_v2
from tests.model_runs import B200, H200, H200_RECIPES, accuracy, decode, full_run, hot, run_of, two_gpus
from tests.reports import PNG

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Draw = Callable[[Callable[[], bytes]], Figure]


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Draw:
    """Makes a plot and gives its figure, which is not encoded: that takes longer than all the rest."""
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **more: drawn.append(self))

    def run(made: Callable[[], bytes]) -> Figure:
        made()
        return drawn[-1]

    return run


def bars(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def facts(figure: Figure, comparison: Comparison) -> None:
    """What must hold of the four panels of `two_gpus`: 9 that ran, one that could not, one emulated."""
    tokens, speedups, scores, differences = figure.axes
    assert [len(bars(axes)) for axes in figure.axes] == [9, 2 * 6, 9, 7]
    for axes in (tokens, speedups, scores):
        assert axes.get_ylim()[0] == 0
    assert max(scores.get_yticks()) == 100
    assert differences.get_ylim()[0] < 0 < differences.get_ylim()[1]
    for axes in figure.axes:
        assert all(bar.get_y() == 0 for bar in bars(axes)), "every bar starts at zero"
        assert all(abs(bar.get_height()) > 0 for bar in bars(axes)), "no bar of no height"
        assert "nvfp4-w4a4 n/a: no-native-fp4" in words(axes)
    assert "mxfp4-w4a4 emulated: no speedup" in words(speedups)
    (group,) = comparison.groups
    speeds = [row.entry.tokens_per_s for row in group.rows if row.entry.tokens_per_s]
    assert [bar.get_height() for bar in bars(tokens)] == pytest.approx(speeds)
    color = colors(comparison.recipes)
    shown = [row.entry for row in group.rows if not row.entry.problem]
    assert [bar.get_facecolor()[:3] for bar in bars(tokens)] == [
        to_rgb(color[entry.recipe]) for entry in shown
    ]
    hatch = {"none": "", "native": "", "weight-only": "///", "emulated": "xxx"}
    assert [bar.get_hatch() or "" for bar in bars(tokens)] == [hatch[entry.mode] for entry in shown]
    ratios = [row.speedup for row in group.rows if row.speedup]
    heights = [bar.get_height() for bar in bars(speedups)]
    assert heights[::2] == pytest.approx([ratio.tokens_per_s for ratio in ratios])
    assert heights[1::2] == pytest.approx([ratio.wall for ratio in ratios])


def page() -> tuple[Comparison, Callable[[], bytes]]:
    found = compare_models(two_gpus())
    return found, lambda: combined_png(found, found.groups[0], found.accuracy[0])


def test_plots_are_pngs_of_1200_pixels_width() -> None:
    found = compare_models(two_gpus())
    png = throughput_png(found, found.groups[0])
    assert png.startswith(PNG)
    assert int.from_bytes(png[16:20], "big") == 1200


def test_the_combined_plot_shows_every_number_from_zero(draw: Draw) -> None:
    found, made = page()
    facts(draw(made), found)


def zeros(real: Callable[..., list[Bar]]) -> Callable[..., list[Bar]]:
    """What could not run, drawn as a measurement of nothing."""
    return lambda group: [
        Bar(b.gpu, b.recipe, 0.0 if b.height is None else b.height, b.label) for b in real(group)
    ]


def unhatched(real: Callable[..., list[Bar]]) -> Callable[..., list[Bar]]:
    return lambda group: [Bar(b.gpu, b.recipe, b.height, b.label, b.words) for b in real(group)]


def wall_first(real: Callable[..., list[Bar]]) -> Callable[..., list[Bar]]:
    def swapped(comparison: Comparison, group: object) -> list[Bar]:
        return sorted(real(comparison, group), key=lambda bar: (bar.gpu, bar.recipe, not bar.pale))

    return swapped


@pytest.mark.parametrize(
    ("name", "broken"),
    [("tokens_bars", zeros), ("tokens_bars", unhatched), ("speedup_bars", wall_first)],
    ids=["zero for missing", "modes alike", "speedups swapped"],
)
def test_a_wrong_plot_does_not_pass(
    name: str, broken: Callable[..., Callable[..., list[Bar]]], draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, made = page()
    monkeypatch.setattr(panels, name, broken(getattr(panels, name)))
    with pytest.raises(AssertionError):
        facts(draw(made), found)


def test_rooflines_are_ticks_above_their_bars_and_the_legend_says_so(draw: Draw) -> None:
    found = compare_models(two_gpus())
    figure = draw(lambda: throughput_png(found, found.groups[0]))
    tokens, _ = figure.axes
    ticks = [line for line in tokens.get_lines() if line.get_linewidth() == 2.2]
    assert len(ticks) == 9
    rooflines = [row.entry.roofline for row in found.groups[0].rows if row.entry.roofline]
    assert [line.get_ydata()[0] for line in ticks] == pytest.approx(rooflines)
    assert rooflines[0] == pytest.approx(160.2 / 0.63)
    assert tokens.get_ylim()[1] > max(rooflines)
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [
        *("bf16", "fp8", "nvfp4-w4a16", "mxfp4-w4a4", "nvfp4-w4a4"),
        *("native", "not quantized", "weight-only", "emulated"),
        *("speedup in tokens/s", "speedup in wall time", "roofline"),
    ]
    assert tokens.get_title(loc="left") == "Throughput, p20–p80 of the times, % of roofline"


def test_a_roofline_far_above_does_not_flatten_the_bars(draw: Draw) -> None:
    run = full_run(H200, (replace(H200_RECIPES[0], roofline=0.5), replace(H200_RECIPES[1], roofline=40.0)))
    found = compare_models(Inputs((("a.json", run),)))
    tokens, _ = draw(lambda: throughput_png(found, found.groups[0])).axes
    assert len([line for line in tokens.get_lines() if line.get_linewidth() == 2.2]) == 1
    assert tokens.get_ylim()[1] < 1000 and any("0.50%" in text for text in words(tokens))


def test_intervals_are_whiskers_and_p_stands_beside(draw: Draw) -> None:
    found = compare_models(two_gpus())
    scores, differences = draw(lambda: accuracy_png(found, found.accuracy[0])).axes
    assert (len(scores.containers), len(differences.containers)) == (9 + 9, 7 + 7), "a bar and a whisker each"
    assert any("-2.2" in text and "p 0.0039" in text for text in words(differences))
    assert "paired, p of McNemar" in differences.get_title(loc="left")
    low, high = scores.collections[0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((94.83, 98.28), abs=0.05)


def test_warnings_and_reasons_stand_on_the_page(draw: Draw) -> None:
    _, made = page()
    said = " ".join(text.get_text() for text in draw(made).texts)
    assert "DIFFERENT KERNELS UNDER ONE NAME: mxfp4-w4a4" in said
    assert "nvfp4-w4a4 on NVIDIA H200 (sm_90) n/a: no-native-fp4: compute capability 9.0 has no FP4" in said
    sample = compare_models(Inputs(published=(("s", nemotron_nano_9b_v2()),)), allow_published=True)
    figure = draw(lambda: combined_png(sample, sample.groups[0], sample.accuracy[0]))
    said = " ".join(text.get_text() for text in figure.texts)
    assert "UNEQUAL TOKEN COUNTS" in said and "Error Internal" in said
    assert "0.96×" in words(figure.axes[1]) and "unpaired, p of Fisher" in figure.axes[3].get_title(
        loc="left"
    )


def test_a_plot_is_marked_where_the_card_was_slowed_down_and_no_other(draw: Draw) -> None:
    run = run_of(H200, decode(H200_RECIPES[0]), hot(decode(H200_RECIPES[0], batch=8)))
    found = compare_models(Inputs((("a.json", run),), (("", accuracy(H200, "bf16", 1)),)))
    one, eight = found.groups
    (scores,) = found.accuracy

    def marked(made: Callable[[], bytes]) -> bool:
        return any("THROTTLED" in text.get_text() for text in draw(made).texts)

    for group in (one, eight):
        assert marked(lambda group=group: throughput_png(found, group)) is (group is eight)
        assert marked(lambda group=group: combined_png(found, group, scores)) is (group is eight)
    assert not marked(lambda: accuracy_png(found, scores))


def crowded() -> Inputs:
    """Eight recipes on two GPUs, of which one lacks some; five digits of tokens/s."""
    recipes = [
        replace(H200_RECIPES[1], name=f"recipe-{index}", speed=9000.0 + 999 * index) for index in range(8)
    ]
    some = [replace(each, speed=None) if index % 3 == 1 else each for index, each in enumerate(recipes)]
    first, second = (full_run(device, tuple(each)) for device, each in ((H200, recipes), (B200, some)))
    scores = tuple(("", accuracy(H200, each.name, 12 * index)) for index, each in enumerate(recipes))
    return Inputs((("a.json", first), ("b.json", second)), scores)


@pytest.mark.parametrize("inputs", [two_gpus(), crowded()], ids=["two GPUs", "crowded"])
def test_numbers_do_not_lie_on_each_other(inputs: Inputs, draw: Draw) -> None:
    found = compare_models(inputs, baseline=inputs.runs[0][1].results[0].provider)
    figure = draw(lambda: combined_png(found, found.groups[0], found.accuracy[0]))
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        for index, one in enumerate(boxes):
            for other in boxes[index + 1 :]:
                wide = min(one.x1, other.x1) - max(one.x0, other.x0)
                high = min(one.y1, other.y1) - max(one.y0, other.y0)
                assert wide <= 2 or high <= 2, "two pixels of frame at most"
            assert one.y0 >= axes.get_window_extent().y0 - 2 and one.y1 <= axes.get_window_extent().y1 + 2


def test_a_folder_gets_a_page_and_every_plot_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("throughput_png", "combined_png", "accuracy_png"):
        monkeypatch.setattr(write, name, lambda *shown: PNG)
    written = write_comparison(tmp_path, compare_models(two_gpus(batches=(1, 8))))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written.files)
    kinds = [path.name.split("_")[0] for path in written.files]
    assert [kinds.count(kind) for kind in ("throughput", "combined", "accuracy")] == [2, 2, 1]
    assert [path.name.split("_")[0] for path in written.shown] == ["combined", "combined"], (
        "all that the others show"
    )
    assert "throughput_Llama-3.1-8B_batch-8_prompt-512_new-128.png" in {path.name for path in written.files}
    assert written.note == ""


def test_one_recipe_or_none_that_ran_can_be_drawn(draw: Draw) -> None:
    found = compare_models(two_gpus())
    group = found.groups[0]
    nothing = [row for row in group.rows if row.entry.problem]
    for rows in (group.rows[:1], tuple(nothing)):
        figure = draw(
            lambda rows=rows: throughput_png(found, figures.Group(group.model, group.workload, rows))
        )
        assert len(bars(figure.axes[0])) == sum(not row.entry.problem for row in rows)


def test_names_of_plots_cannot_collide() -> None:
    def nothing() -> bytes:
        return b""

    about = [
        ("org/a b", "batch 1"),
        ("other/a-b", "batch 1"),
        ("A-B", "batch 1"),
        ("x" * 300, "y"),
        ("x" * 301, "y"),
    ]
    names = plot_names([Plot("throughput", each, nothing) for each in about])
    assert len({name.casefold() for name in names}) == len(names) == 5
    assert all(len(name) < 255 and name.isascii() for name in names)


def test_without_matplotlib_the_page_is_written_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "have_matplotlib", lambda: False)
    written = write_comparison(tmp_path, compare_models(two_gpus()))
    assert [path.name for path in written.files] == ["comparison.md"]
    assert "pytest-qbench[plots]" in written.note
