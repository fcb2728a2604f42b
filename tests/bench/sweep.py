"""The sweep's selections (--models, --batch-sizes, ...) and the cases they choose.

A bench module defines `cases(sweep)`; its test takes `case` and `qbench`. Without a GPU the shapes are small
ones of the same kind, since the models' own take minutes a product on a CPU; naming --models or
--batch-sizes asks for the real ones anywhere.

--recipes asks for whole models instead (test_models.py): then --models are those that are built, and --batch-sizes how
many texts are decoded at once. Without it a tiny one is run where there is no GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import qbench
from qbench import Case, Op, Provider, Workload
from qbench.device import capability
from qkernels import models
from qkernels.format import NVFP4, Format

DTYPES = ("half", "bfloat16", "float")
GPU_BATCHES = (1, 16, 128, 1024, 4096)
CPU_SHAPES = tuple((m, n, k) for n, k in ((512, 512), (1024, 512)) for m in (1, 16, 128))
HADAMARDS = NVFP4.hadamard  # MXFP4 has the same, from 32 on
CUBES = (128, 256, 512, 1024, 2048, 4096)
LAYERS = tuple((m, n, 4096) for n in (4096, 11008) for m in (1, 8, 32, 128))
# what the replaced scripts called a provider: (op's end, provider)
ALIASES = {
    "nvfp4": ("nvfp4_hadamard_gemm", "triton"),
    "mxfp4": ("mxfp4_hadamard_gemm", "triton"),
    "nvfp4-noquant": ("nvfp4_w4a4_gemm", "triton"),
    "mxfp4-noquant": ("mxfp4_w4a4_gemm", "triton"),
}


@dataclass(frozen=True)
class Sweep:
    """What was asked for on the command line; empty tuples mean the defaults."""

    models: tuple[str, ...]
    tp_sizes: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    had_sizes: tuple[int, ...]
    providers: tuple[str, ...]
    num_tokens: tuple[int, ...]
    hidden_sizes: tuple[int, ...]
    quant_dtype: str | None
    static_scale: bool
    dtypes: tuple[str, ...]
    full: bool
    gpu: bool
    recipes: tuple[str, ...] = ()
    prompts: tuple[int, ...] = ()
    new_tokens: int | None = None
    layer_count: int | None = None

    @property
    def tiny_model(self) -> bool:
        """A tiny model by two recipes: nothing at all was selected, and there is no GPU."""
        plain = Sweep((), (), (), (), (), (), (), None, False, (), False, False)
        return not self.gpu and self == plain

    @property
    def small(self) -> bool:
        """Small shapes instead of a model's: no GPU, and nothing larger was asked for."""
        return not (self.gpu or self.full or self.models or self.batch_sizes)

    def gemms(self, **axes: Any) -> list[Workload]:
        """The models' layer shapes (or the small ones) with further axes."""
        if self.small:
            return [Workload.of(0, m=m, n=n, k=k, **axes) for m, n, k in CPU_SHAPES]
        chosen = [_model(name) for name in self.models or ("meta-llama/Llama-3.3-70B-Instruct",)]
        batches = self.batch_sizes or (models.FULL_BATCH_SIZES if self.full else GPU_BATCHES)
        return models.sweep(chosen, batches, self.tp_sizes or (1,), **axes)

    def hadamards(self, fmt: Format, default: tuple[int, ...]) -> tuple[int, ...]:
        """Rotation sizes of a format: those asked for that it has, all with --full, `default` otherwise."""
        if self.had_sizes:
            return tuple(size for size in self.had_sizes if size in fmt.hadamard)
        return fmt.hadamard if self.full else default

    def cubes_and_layers(self, **axes: Any) -> list[Workload]:
        """128^3 to 4096^3, then M x 4096 x {4096, 11008}; none where a model or batch sizes were asked for."""
        if self.models or self.batch_sizes:
            return []
        cubes = [(size, size, size) for size in (CUBES[:3] if self.small else CUBES)]
        layers = [(m, 1536, 512) for m in (1, 8)] if self.small else list(LAYERS)
        return [Workload.of(0, m=m, n=n, k=k, **axes) for m, n, k in cubes + layers]

    def layers(self, **axes: Any) -> list[Workload]:
        if self.models or self.batch_sizes:
            return []
        shapes = [(m, 1536, 512) for m in (1, 8)] if self.small else list(LAYERS)
        return [Workload.of(0, m=m, n=n, k=k, **axes) for m, n, k in shapes]

    def activations(self, **axes: Any) -> list[Workload]:
        """Shapes [tokens, hidden] and dtypes of what quantizers are given."""
        tokens = self.num_tokens or ((1, 16, 256) if self.small else (16, 1024, 4096))
        if self.full and not self.num_tokens:
            tokens = (1, 16, 128, 1024, 4096, 8192)
        hidden = self.hidden_sizes or ((1024,) if self.small else (8192,))
        if self.full and not self.hidden_sizes:
            hidden = (4096, 8192, 16384)
        dtypes = self.dtypes or (DTYPES if self.full else ("half",))
        return [Workload.of(0, m=m, k=k, dtype=d, **axes) for d in dtypes for k in hidden for m in tokens]

    def compiled(self, shapes: list[Workload]) -> list[Workload]:
        """Shapes for torch.compile, which takes seconds for each: the last one, all with --full or when named."""
        return shapes if self.full or "torch-compile" in self.providers else shapes[-1:]

    def peers(self, op: Op, providers: Sequence[Provider], shapes: Sequence[Workload]) -> list[Case]:
        """Cases of others' kernels, which take seconds a shape to compile or search: every shape with --full or where
        they are named, the first and the last otherwise."""
        made = []
        for each in providers:
            named = self.full or qbench.provider_info(each).name in self.providers
            made += self.cases(op, [each], shapes if named else dict.fromkeys((shapes[0], shapes[-1])))
        return made

    def cases(self, op: Op, providers: Sequence[Provider], workloads: Iterable[Workload]) -> list[Case]:
        """Cases of the selected providers. One that cannot run here at all stands for its shapes by the first."""
        listed = list(workloads)
        made = []
        for each in providers:
            if self._selected(op, each):
                made += qbench.cases(op, [each], listed if self.runs(each) else listed[:1])
        order = {workload: index for index, workload in enumerate(listed)}
        return sorted(made, key=lambda case: order[case.workload])

    def _selected(self, op: Op, provider: Provider) -> bool:
        name = qbench.provider_info(provider).name
        wanted = [ALIASES.get(one, (None, one)) for one in self.providers]
        return not wanted or any(name == n and o in (None, op.name) for o, n in wanted)

    def runs(self, provider: Provider) -> bool:
        """Can it run here, as far as can be told without trying?"""
        from qkernels.providers.libraries import LIBRARIES, installed

        info = qbench.provider_info(provider)
        library = LIBRARIES.get(info.name)
        return not info.missing(capability()) and (library is None or installed(library))


def _model(name: str) -> models.Model:
    if "config.json" in name or name.startswith((".", "/")):
        return models.from_config(name)
    return models.get_model(name)


def whole_model(name: str, layers: int | None = None) -> tuple[str, Callable[[torch.device], Any]]:
    """The name of its baselines and the builder of a model: a preset's, or a local folder's.

    Raises ValueError for a name that no preset has, FileNotFoundError for a folder that is none.
    """
    if name.startswith((".", "/")):
        if not (Path(name) / "config.json").is_file():
            raise FileNotFoundError(f"no model at {name}: give a local folder with config.json")
        if layers is not None:
            raise ValueError(f"--layers {layers}: {name} is read as it is; cut a preset instead")
        plain = re.sub(r"[^A-Za-z0-9_.+-]", "-", Path(name).resolve().name)
        return plain, lambda device: models.load(name, device=device)
    known = {one.lower(): one for key in models.PRESETS for one in (key, key.partition("/")[2]) if one}
    preset = known.get(name.lower()) or (models.get_model(name).name if name else name)
    if preset not in known.values():
        raise ValueError(f"{name!r} has swept shapes only; whole models: {', '.join(models.PRESETS)}")
    label = preset.rpartition("/")[2] + (f"-{layers}-layers" if layers else "")
    return label, lambda device: models.build(preset, device=device, layers=layers)


KNOWN_PROVIDERS = ("torch-bf16", "torch-eager", "torch-exact", "torch-compile", "torch-compile-fp8", "torch-scaled-mm",
                   "torch-scaled-mm-fp8", "torch-scaled-mm-fp8-slow", "triton", "triton-prepared", "triton-fp8",
                   "triton-scaled", "layer", "prepared-layer", "prepared-fp8-layer", "vllm", "vllm-cutlass", "qutlass",
                   "torchao", "gemlite", "humming", *ALIASES)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sweep", "what the benchmarks of this repository sweep over")
    group.addoption(
        "--models", nargs="+", default=(), metavar="NAME", help="models, or paths of a config.json"
    )
    group.addoption("--tp-sizes", nargs="+", type=int, default=(), metavar="N", help="tensor parallel sizes")
    group.addoption(
        "--batch-sizes", nargs="+", type=int, default=(), metavar="M", help="rows of the activations"
    )
    group.addoption("--had-sizes", nargs="+", type=int, default=(), metavar="N", help="Hadamard sizes")
    group.addoption("--providers", nargs="+", default=(), metavar="NAME", help=", ".join(KNOWN_PROVIDERS))
    group.addoption(
        "--num-tokens", nargs="+", type=int, default=(), metavar="N", help="rows given to quantizers"
    )
    group.addoption("--hidden-size", nargs="+", type=int, default=(), metavar="N", help="columns likewise")
    group.addoption("--quant-dtype", choices=("fp8", "int8"), help="only this scaled quantizer")
    group.addoption("--static-scale", action="store_true", help="only static scales")
    group.addoption("--dtype", nargs="+", choices=DTYPES, default=(), help="dtypes given to quantizers")
    group.addoption(
        "--recipes",
        nargs="+",
        default=(),
        metavar="NAME",
        help=f"whole models by these recipes: {', '.join(models.RECIPES)}",
    )
    group.addoption(
        "--prompts", nargs="+", type=int, default=(), metavar="N", help="tokens read (default: 128)"
    )
    group.addoption("--new-tokens", type=int, metavar="N", help="tokens decoded (default: 64)")
    group.addoption("--layers", type=int, metavar="N", help="only the first N layers of a whole model")
    group.addoption(
        "--full", action="store_true", help="the complete sweep: all batch and Hadamard sizes, dtypes"
    )


def sweep_of(config: pytest.Config) -> Sweep:
    """The options as a Sweep. Raises UsageError for a name or number that nothing knows."""
    option = config.getoption
    providers = tuple(option("--providers"))
    for name in providers:
        if name not in KNOWN_PROVIDERS:
            raise pytest.UsageError(f"unknown provider {name!r}; known: {', '.join(KNOWN_PROVIDERS)}")
    for name in option("--recipes"):
        if name not in models.RECIPES:
            raise pytest.UsageError(f"unknown recipe {name!r}; known: {', '.join(models.RECIPES)}")
    for name in ("--new-tokens", "--layers"):
        if option(name) is not None and option(name) < 1:
            raise pytest.UsageError(f"{name} {option(name)}: a whole number of at least 1")
    for name in ("--batch-sizes", "--tp-sizes", "--had-sizes", "--num-tokens", "--hidden-size", "--prompts"):
        if any(value < 1 for value in option(name)):
            raise pytest.UsageError(f"{name} {option(name)}: whole numbers of at least 1")
    for size in option("--had-sizes"):
        if size not in HADAMARDS:
            raise pytest.UsageError(f"unknown Hadamard size {size}; known: {', '.join(map(str, HADAMARDS))}")
    made = Sweep(
        tuple(option("--models")), tuple(option("--tp-sizes")), tuple(option("--batch-sizes")),
        tuple(option("--had-sizes")), providers, tuple(option("--num-tokens")), tuple(option("--hidden-size")),
        option("--quant-dtype"), option("--static-scale"), tuple(option("--dtype")), option("--full"),
        torch.cuda.is_available(), tuple(option("--recipes")), tuple(option("--prompts")), option("--new-tokens"),
        option("--layers"),
    )  # fmt: skip
    try:
        if made.recipes:
            for name in made.models:
                whole_model(name, made.layer_count)
        else:
            replace(made, batch_sizes=(1,)).gemms()
    except (ValueError, FileNotFoundError) as error:
        raise pytest.UsageError(str(error)) from error
    return made


SWEEP = pytest.StashKey[Sweep]()
OWNERS = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SWEEP] = sweep_of(config)
    config.stash[OWNERS] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = getattr(metafunc.module, "cases", None)
    if chosen is None or not {"case", "qbench"} <= set(metafunc.fixturenames):
        return
    # A model's layer may have a shape that another module times anyway: the first to name a case keeps it.
    owners, module = metafunc.config.stash[OWNERS], metafunc.module.__name__
    sweep = metafunc.config.stash[SWEEP]
    whole = getattr(metafunc.module, "WHOLE_MODELS", False)
    listed = chosen(sweep) if whole or not sweep.recipes else []
    made = [case for case in listed if owners.setdefault(case.id, module) == module]
    metafunc.parametrize("case", made, ids=[case.id for case in made])
