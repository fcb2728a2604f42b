"""What each layer costs and gains, drawn: KL at the left, time gained at the right, a row for each, costliest first."""

from __future__ import annotations

from io import BytesIO

from .sensitivity import Sensitivity

_COST, _GAIN, _LOSS = "#D55E00", "#0072B2", "#777777"  # Okabe & Ito 2008
_ROWS = 40


def plot_png(found: Sensitivity, *, rows: int = _ROWS) -> bytes:
    """A PNG of the `rows` costliest layers; needs matplotlib (the extra `plots`). Bars begin at zero."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown, hidden = found.layers[:rows], len(found.layers[rows:])
    timed = any(cost.gained_s is not None for cost in shown)
    figure = Figure(figsize=(11 if timed else 8, 1.6 + 0.24 * len(shown)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, *more = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
    place = list(range(len(shown)))
    kl = [cost.kl for cost in shown]
    sides = [[c.kl - min(c.kl, c.kl_low) for c in shown], [max(c.kl, c.kl_high) - c.kl for c in shown]]
    left.barh(place, kl, color=_COST, xerr=sides, error_kw={"lw": 0.8, "capsize": 2})
    left.set_yticks(place, [cost.layer.name for cost in shown], fontsize=8)
    left.set_ylim(len(shown) - 0.4, -0.6)
    left.set_xlabel("KL of this layer alone, nats a token (95% CI)")
    for axes in more:
        gains = [1e6 * (cost.gained_s or 0.0) for cost in shown]
        axes.barh(place, gains, color=[_GAIN if gain >= 0 else _LOSS for gain in gains])
        axes.axvline(0.0, color="black", lw=0.6)
        axes.set_xlabel("time gained a call, µs")
    rest = f"; {hidden} less costly layers are not shown" if hidden else ""
    figure.suptitle(f"{found.recipe}: all layers together {found.whole:.2e} nats a token{rest}", fontsize=10)
    stream = BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
