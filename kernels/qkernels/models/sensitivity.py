"""Which layers cost the most accuracy, and which gain the most time: one linear layer at a time is quantized.

    parts = text_windows(tokenizer, text, length=512)          # qbench.model.accuracy
    found = sensitivity(model, "nvfp4-w4a4", parts, time=layer_seconds)
    print(found.table())
    recipe = dataclasses.replace(recipe, skip=(*recipe.skip, *found.worst(4)))

KL of the model's next-token distributions, unquantized against one layer quantized, in nats a token. What single layers
cost adds up roughly and not exactly; `whole` is all of them at once, and is what a skip list must bring down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from qbench import divergence_from, reference_logits

from .recipe import Recipe, get_recipe
from .swap import LayerReport, swap

if TYPE_CHECKING:
    from qbench.model.accuracy.likelihood import Window

Time = Callable[[nn.Module], float]


@dataclass(frozen=True)
class LayerCost:
    """One layer quantized. kl in nats a token, with its interval of 95%; top1: same most likely token, a fraction.

    gained_s: seconds that a call of it takes less than before (negative: more); None where no time was taken.
    """

    layer: LayerReport
    kl: float
    kl_low: float
    kl_high: float
    top1: float
    gained_s: float | None = None


@dataclass(frozen=True)
class Sensitivity:
    """layers: the costliest first. whole: KL of all of them quantized together."""

    recipe: str
    tokens: int
    layers: tuple[LayerCost, ...]
    whole: float

    def worst(self, count: int) -> tuple[str, ...]:
        """Names of the `count` layers that cost most, for a recipe's `skip`."""
        return tuple(cost.layer.name for cost in self.layers[:count])

    def skip_for(self, share: float) -> tuple[str, ...]:
        """The fewest layers that make up `share` (0 to 1) of the sum of single costs."""
        if not 0 <= share <= 1:
            raise ValueError(
                f"share {share} is not in [0, 1]: 0.5 names the layers that make up half of the sum"
            )
        left, names = share * sum(cost.kl for cost in self.layers), []
        for cost in self.layers:
            if left <= 0:
                break
            names.append(cost.layer.name)
            left -= cost.kl
        return tuple(names)

    def table(self) -> str:
        """One line for each layer, costliest first: KL, its interval, agreement, time gained."""
        width = max([len(cost.layer.name) for cost in self.layers] + [5])
        head = f"{'layer':<{width}}  {'N x K':>13}  {'KL, nats':>10}  {'95% CI':>21}  {'top-1':>6}  {'gained, us':>10}"
        lines = [head]
        for cost in self.layers:
            gained = "" if cost.gained_s is None else f"{1e6 * cost.gained_s:.2f}"
            shape, interval = f"{cost.layer.n} x {cost.layer.k}", f"{cost.kl_low:.3e} … {cost.kl_high:.3e}"
            lines.append(f"{cost.layer.name:<{width}}  {shape:>13}  {cost.kl:>10.3e}  {interval:>21}  "
                         f"{cost.top1:>6.3f}  {gained:>10}")  # fmt: skip
        lines.append(f"{self.recipe}: single layers add up to {sum(c.kl for c in self.layers):.3e}, "
                     f"all together {self.whole:.3e} nats a token, {self.tokens} tokens")  # fmt: skip
        return "\n".join(line.rstrip() for line in lines)


def sensitivity(
    model: nn.Module,
    recipe: Recipe | str,
    parts: Sequence[Window],
    *,
    calibration: Mapping[str, float] | None = None,
    time: Time | None = None,
) -> Sensitivity:
    """Quantize each layer that the recipe would, alone; measure; put it back. The model ends as it began.

    time: seconds of one call of a layer. It is asked once for each shape before and after, not for each layer.
    ValueError where the recipe quantizes no layer of the model.
    """
    recipe = get_recipe(recipe)
    stored = reference_logits(model, parts)
    originals = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    gains: dict[tuple[int, int, bool], float] = {}
    costs: list[LayerCost] = []
    for name, original in originals.items():
        with quantized(model, recipe, {name: original}, calibration) as reports:
            if not reports:
                continue
            found = divergence_from(stored, model, parts)
            shape = (original.out_features, original.in_features, original.bias is not None)
            if time is not None and shape not in gains:
                gains[shape] = time(original) - time(model.get_submodule(name))
        kl, top1 = found.kl, found.top1.value
        costs.append(LayerCost(reports[0], kl.value, kl.low, kl.high, top1, gains.get(shape)))
    if not costs:
        raise ValueError(
            f"recipe {recipe.name} quantizes no layer of this model; see swap(...).table() for why"
        )
    with quantized(model, recipe, originals, calibration):
        whole = divergence_from(stored, model, parts)
    costs.sort(key=lambda cost: cost.kl, reverse=True)
    return Sensitivity(recipe.name, whole.tokens, tuple(costs), whole.kl.value)


@contextmanager
def quantized(
    model: nn.Module,
    recipe: Recipe,
    originals: Mapping[str, nn.Linear],
    calibration: Mapping[str, float] | None,
) -> Iterator[tuple[LayerReport, ...]]:
    """The named layers are quantized inside, and are the originals again outside, whatever happened."""
    try:
        yield swap(model, recipe, only=tuple(originals), calibration=calibration).swapped
    finally:
        for name, original in originals.items():
            model.set_submodule(name, original)
