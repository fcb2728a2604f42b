"""Replace the linear layers of a model in place, and say for each what replaced it, how it runs and what it weighs.

Works on any torch model; nn.Linear modules are what it looks at (fused experts of some models are no such modules and
stay). For inference: model.eval(), for no gradient passes through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from qkernels.hadamard import rotate

from .codes import CodesLinear, unfit
from .fast import Mode, Placed, fastest
from .merge import Part, grouped, joined, parts, quantized
from .recipe import Recipe, get_recipe

_WORST_FIRST: tuple[Mode, ...] = ("emulated", "weight-only", "native")


@dataclass(frozen=True)
class LayerReport:
    """One linear layer [n, k]. bytes: of weight, scales and bias as they lie in memory. skipped: why it was left alone,
    or "". note: why it is not of a faster mode, or ""."""

    name: str
    n: int
    k: int
    backend: str
    mode: Mode
    bytes_before: int
    bytes_after: int
    skipped: str = ""
    note: str = ""


@dataclass(frozen=True)
class SwapReport:
    """What became of each linear layer of a model."""

    recipe: str
    layers: tuple[LayerReport, ...]

    @property
    def swapped(self) -> tuple[LayerReport, ...]:
        return tuple(layer for layer in self.layers if not layer.skipped)

    @property
    def mode(self) -> Mode:
        """The slowest mode of any swapped layer: a model is not native with one layer emulated. "none" if none is."""
        found = {layer.mode for layer in self.swapped}
        return next((mode for mode in _WORST_FIRST if mode in found), "none")

    @property
    def backend(self) -> str:
        """The backends of swapped layers, joined by "+"."""
        return "+".join(dict.fromkeys(layer.backend for layer in self.swapped)) or "torch"

    @property
    def bytes_before(self) -> int:
        """Of all linear layers, those left alone included."""
        return sum(layer.bytes_before for layer in self.layers)

    @property
    def bytes_after(self) -> int:
        return sum(layer.bytes_after for layer in self.layers)

    def table(self) -> str:
        """One line for each layer, and the sum."""
        width = max([len(layer.name) for layer in self.layers] + [5])
        head = f"{'layer':<{width}}  {'N x K':>14}  {'mode':<11}  {'backend':<17}  {'MB before':>9}  {'after':>8}  why"
        lines = [head] + [
            f"{each.name:<{width}}  {f'{each.n} x {each.k}':>14}  {each.mode:<11}  {each.backend:<17}  "
            f"{each.bytes_before / 2**20:>9.3f}  {each.bytes_after / 2**20:>8.3f}  {each.skipped or each.note}".rstrip()
            for each in self.layers
        ]
        share = (
            f"{self.bytes_before / self.bytes_after:.2f}x smaller" if self.bytes_after else "no linear layer"
        )
        lines.append(f"{self.recipe}: {len(self.swapped)} of {len(self.layers)} layers, mode {self.mode}, "
                     f"{self.bytes_before / 2**20:.3f} -> {self.bytes_after / 2**20:.3f} MB, {share}")  # fmt: skip
        return "\n".join(lines)


def swap(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    device: torch.device | str | None = None,
    calibration: Mapping[str, float] | None = None,
    only: Sequence[str] = ("*",),
    emulate: bool = False,
    together: bool = True,
) -> SwapReport:
    """Quantize the linear layers of a model, in place, into the fastest layers there are where they lie.

    device        move each layer there first, and the rest of the model last: a GPU never holds both whole
    calibration   amax of each layer's input by module name (`calibrate`), for recipes with static scales
    only          patterns of names; others are left alone and are no part of the report
    emulate       leave the plain layers that decode their weight at every call, to compare with
    together      layers of one input (q, k, v; gate, up) get one global scale, and are one product where a kernel is
                  (merge.py); False: each by itself, as loading with QKernelsConfig quantizes them
    Layers already quantized (`CodesLinear`, of a loaded checkpoint) are made fast; their recipe is their own.
    ValueError for an unknown recipe, and for a static scale that is not given.
    """
    recipe = get_recipe(recipe)
    reports = []
    names = linear_layers(model, only)
    for group in grouped(names) if together else [[each] for each in names]:  # freed before the next
        reports += _swap_group(model, group, recipe, device, calibration, emulate)
    if device is not None:
        model.to(device)
    return SwapReport(recipe.name, tuple(reports))


def _swap_group(
    model: nn.Module, group: Sequence[tuple[str, ...]], recipe: Recipe, device: Any,
    calibration: Mapping[str, float] | None, emulate: bool,
) -> list[LayerReport]:  # fmt: skip
    """Layers that may be joined, or one alone; each with its names."""
    modules = [_linear(model, names[0]) for names in group]
    reasons = [
        skip_reason(model, names[0], module, recipe) for names, module in zip(group, modules, strict=True)
    ]
    before = [module_bytes(module) for module in modules]
    placed = [Placed(module, "torch", "none") for module in modules]
    after = list(before)
    taken = [index for index, reason in enumerate(reasons) if not reason]
    if taken:
        dtypes = [_dtype(modules[index], model) for index in taken]
        names = [group[index][0] for index in taken]
        coded = _coded([modules[index] for index in taken], recipe, names, calibration, device)
        found = _place(coded, dtypes, emulate)
        for index, now, size in zip(taken, found, _sizes(found), strict=True):
            placed[index], after[index] = now, size
            for name in group[index]:
                model.set_submodule(name, now.module)
    reports = []
    for index, (names_of_one, module) in enumerate(zip(group, modules, strict=True)):
        now, sizes = placed[index], (before[index], after[index])
        for name in names_of_one:  # one module under two names is counted once
            reports.append(LayerReport(name, module.out_features, module.in_features, now.backend, now.mode, *sizes,
                                       reasons[index], now.note))  # fmt: skip
            sizes = (0, 0)
    return reports


def _linear(model: nn.Module, name: str) -> nn.Linear | CodesLinear:
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear | CodesLinear)
    return module


def _sizes(placed: Sequence[Placed]) -> list[int]:
    """Bytes of each layer; of parts of one product its share of the rows."""
    merged = [each.module for each in placed if isinstance(each.module, Part)]
    if not merged:
        return [module_bytes(each.module) for each in placed]
    whole, n = module_bytes(merged[0]), merged[-1].stop
    return [whole * part.stop // n - whole * part.start // n for part in merged]


@torch.no_grad()
def calibrate(model: nn.Module, recipe: Recipe | str, batches: Iterable[Any]) -> dict[str, float]:
    """amax of each linear layer's input, rotated as the recipe rotates it, over batches: token tensors or keyword
    arguments of the model's forward. For `swap(..., calibration=)`. ValueError without a batch."""
    recipe = get_recipe(recipe)
    amax: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0] if recipe.hadamard is None else rotate(inputs[0], recipe.hadamard)
            if x.numel():
                now = x.abs().amax().to(torch.float32)
                amax[name] = torch.maximum(amax[name], now) if name in amax else now

        return hook

    watched = [
        (name, module) for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not recipe.skips(name) and not unfit(module.in_features, recipe)
    ]  # fmt: skip
    handles = [module.register_forward_pre_hook(watch(name)) for name, module in watched]
    try:
        for batch in batches:
            model(**batch) if isinstance(batch, Mapping) else model(batch)
    finally:
        for handle in handles:
            handle.remove()
    if not amax:
        raise ValueError(
            "no batch went through a linear layer; give token tensors or keyword arguments of forward"
        )
    return {name: float(value) for name, value in amax.items()}


def module_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers as they lie in memory."""
    return sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])


def linear_layers(model: nn.Module, only: Sequence[str] = ("*",)) -> list[tuple[str, ...]]:
    """The names of each layer to look at, in the model's order; several where a module has several."""
    found: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear | CodesLinear) and any(fnmatchcase(name, p) for p in only):
            found.setdefault(id(module), []).append(name)
    return [tuple(names) for names in found.values()]


def skip_reason(model: nn.Module, name: str, module: nn.Linear | CodesLinear, recipe: Recipe) -> str:
    if isinstance(module, CodesLinear):
        return ""
    if recipe.weight_format is None:
        return f"{recipe.name} leaves every layer in 16 bits"
    if pattern := recipe.skips(name):
        return f"named by the recipe ({pattern})"
    if "lm_head" in recipe.skip and module is _output_head(model):
        return "the output head, as lm_head is named by the recipe"
    if (kind := type(module)) is not nn.Linear:
        return f"a {kind.__name__}, whose forward may be another"
    if tied := _tied(model, name, module):
        return f"its weight is that of {tied}, which stays in 16 bits; quantized it would be a second copy"
    return unfit(int(module.in_features), recipe)


def _output_head(model: nn.Module) -> nn.Module | None:
    get = getattr(model, "get_output_embeddings", None)
    found = get() if callable(get) else None
    return found if isinstance(found, nn.Module) else None


def _tied(model: nn.Module, name: str, module: nn.Linear) -> str:
    """The name of another module that holds the same parameter, or "". transformers ties what is on the meta device
    later, and says beforehand what."""
    said = dict(getattr(model, "all_tied_weights_keys", None) or {})
    for one, other in said.items():
        for mine, theirs in ((one, other), (other, one)):
            if mine == f"{name}.weight":
                return str(theirs).removesuffix(".weight")
    for found, held in model.named_modules():
        if held is not module and any(p is module.weight for p in held.parameters(recurse=False)):
            return str(found)
    return ""


def _coded(
    modules: Sequence[nn.Linear | CodesLinear], recipe: Recipe, names: Sequence[str],
    calibration: Mapping[str, float] | None, device: Any,
) -> list[CodesLinear]:  # fmt: skip
    """Each as codes, on the device asked for; plain layers quantized together."""
    if device is not None:
        modules = [module.to(device) for module in modules]
    plain = [(name, each) for name, each in zip(names, modules, strict=True) if isinstance(each, nn.Linear)]
    amax = [_amax(name, recipe, calibration) for name, _ in plain]
    made = iter(quantized([each for _, each in plain], recipe, amax))
    return [each if isinstance(each, CodesLinear) else next(made) for each in modules]


def _amax(name: str, recipe: Recipe, calibration: Mapping[str, float] | None) -> float | None:
    if not recipe.static or calibration is None:
        return None
    if name not in calibration:
        raise ValueError(
            f"the calibration has no number for {name}; calibrate with the same recipe and model"
        )
    return calibration[name]


def _place(layers: Sequence[CodesLinear], dtypes: Sequence[torch.dtype], emulate: bool) -> list[Placed]:
    """The layers to put in: parts of one product where there is a kernel for it, each alone otherwise."""
    if emulate:
        backends = [
            "torch-reference" if each.weight.device.type == "cpu" else "torch-dequantize" for each in layers
        ]
        return [
            Placed(each, backend, "emulated", "asked for")
            for each, backend in zip(layers, backends, strict=True)
        ]
    if len(set(dtypes)) == 1 and (whole := joined(layers)) is not None:
        placed = fastest(whole, dtypes[0])
        if placed.mode != "emulated":
            return parts(placed, layers)
    return [fastest(each, dtype) for each, dtype in zip(layers, dtypes, strict=True)]


def _dtype(module: nn.Module, model: nn.Module) -> torch.dtype:
    """Of the activations: that of the layer's weight, or, where it is codes already, of the model's parameters."""
    if isinstance(module, nn.Linear):
        return module.weight.dtype
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.bfloat16)
