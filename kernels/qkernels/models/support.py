"""What cannot run is found out before it crashes, in three steps, each cheaper than the next:

1. a table of compute capabilities (`support`)
2. the imports and functions that the recipe's layers need (`support`)
3. one tiny real layer in a process of its own, checked against the reference (`probe`): an illegal instruction poisons
   the CUDA context of the process that it happens in

What is known not to run is a `Support` with a code, a reason, and the next best recipe: skipped and drawn as "n/a".
Everything else that goes wrong is an error, so that a broken kernel cannot hide as one that does not exist here.

    code          meaning
    ok            it runs; `mode` says how
    capability    the GPU is older than its kernels (its real compute capability is named: product names repeat)
    vendor        not an NVIDIA GPU
    import        a library or a function of torch is missing
    declared      the layers themselves refuse (`qbench.Unsupported`), or only emulate
    no-kernel     the compiled code is for another GPU
    no-device     there is no such device
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import signal
import subprocess
import sys
from dataclasses import dataclass

import torch

from .fast import Mode
from .recipe import RECIPES, Recipe, get_recipe

PROBE_SECONDS = 600  # Triton compiles several kernels when it is new to a machine
_FOREIGN = (
    "no kernel image is available",
    "invalid device function",
    "illegal instruction",
    "is not supported on sm",
)


@dataclass(frozen=True)
class Support:
    """Can a recipe run on a device? instead: the name of the next best recipe that can, or "". mode: how it runs."""

    ok: bool
    code: str
    reason: str
    instead: str = ""
    mode: Mode = "none"


class ProbeError(RuntimeError):
    """A layer that should run does not, or computes something else: a failure, not a lack of support."""


def support(recipe: Recipe | str, device: torch.device | str) -> Support:
    """By the table and the imports; nothing is launched. On a CPU every recipe runs, emulated."""
    recipe, device = get_recipe(recipe), torch.device(device)
    if device.type == "cpu":
        if recipe.weight_format is None:
            return Support(True, "ok", "not quantized")
        return Support(True, "ok", "emulated on a CPU: weights are decoded at every call", mode="emulated")
    if device.type != "cuda":
        return Support(False, "vendor", f"no kernels for devices of type {device.type}", "bf16")
    if torch.version.hip is not None:
        return Support(False, "vendor", "the kernels are for NVIDIA GPUs, and this torch is for ROCm", "bf16")
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        return Support(
            False, "no-device", f"torch finds no {device}; use device='cpu', where recipes are emulated"
        )
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    found = by_table(recipe, capability, name)
    if found.ok and (missing := _missing(recipe, capability)):
        return Support(False, "import", missing, _next_best(recipe, capability))
    return found


def by_table(recipe: Recipe, capability: tuple[int, int], name: str = "this GPU") -> Support:
    """Step 1, for a GPU of that compute capability."""
    kind = _kind(recipe)
    least, mode = _TABLE[kind]
    words = f"{name} of compute capability {capability[0]}.{capability[1]}"
    if capability < least:
        reason = f"{recipe.name} needs compute capability {least[0]}.{least[1]} or newer, this is {words}"
        return Support(False, "capability", reason, _next_best(recipe, capability))
    if kind == "mxfp4-w4a4" and capability[0] == 9:
        mode = "native"
    return Support(True, "ok", words, mode=mode)


_TABLE: dict[str, tuple[tuple[int, int], Mode]] = {
    "none": ((0, 0), "none"),
    "fp8": ((8, 9), "native"),
    "int8": ((8, 0), "native"),
    "w8a16": ((8, 0), "emulated"),
    "w4a16": ((8, 0), "weight-only"),
    "nvfp4-w4a4": ((8, 0), "weight-only"),
    "mxfp4-w4a4": ((8, 0), "weight-only"),  # native on Hopper, where operands are folded to FP8
}
"""By the kind of recipe: the least compute capability of its kernels, and the mode there."""

_PREFERENCE = ("nvfp4-w4a16", "mxfp4-w4a16", "fp8", "int8", "bf16")


def _kind(recipe: Recipe) -> str:
    weight, activation = recipe.weight_format, recipe.activation_format
    if weight is None:
        return "none"
    if weight.packed:
        if activation is None:
            return "w4a16"
        return "nvfp4-w4a4" if weight.scale == "e4m3" else "mxfp4-w4a4"
    if activation is None:
        return "w8a16"
    return "int8" if weight.element.integer else "fp8"


def _next_best(recipe: Recipe, capability: tuple[int, int]) -> str:
    """The nearest recipe of fewer demands that the table takes: the same weights first, then more bits."""
    weight = recipe.weight_format
    order = sorted(_PREFERENCE, key=lambda name: RECIPES[name].weight_format != weight)
    for name in order:
        other = RECIPES[name]
        bits = 16 if other.weight_format is None else other.weight_format.element.bits
        enough = weight is None or bits >= weight.element.bits
        if other != recipe and enough and capability >= _TABLE[_kind(other)][0]:
            return name
    return ""


def _missing(recipe: Recipe, capability: tuple[int, int]) -> str:
    """What the layers need and is not there, or ""."""
    kind = _kind(recipe)
    if kind in ("fp8", "int8") and not hasattr(
        torch, function := "_scaled_mm" if kind == "fp8" else "_int_mm"
    ):
        return f"torch {torch.__version__} has no torch.{function}; install torch 2.11 or newer"
    if kind == "none":
        return ""
    modules = ["triton"]
    if kind not in ("fp8", "int8", "w8a16") and capability[0] == 9:
        modules.append("qkernels.triton.gluon_names")
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            return f"{module} cannot be imported: {error}"
    return ""


def probe(recipe: Recipe | str, device: torch.device | str) -> Support:
    """`support`, and then one small layer quantized, run and checked in a process of its own (seconds; longer where
    kernels are compiled for the first time). ProbeError where that fails in a way that nobody declared."""
    recipe = get_recipe(recipe)
    found = support(recipe, device)
    if not found.ok:
        return found
    command = [
        sys.executable,
        "-m",
        "qkernels.models.probe_layer",
        str(device),
        json.dumps(dataclasses.asdict(recipe)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        raise ProbeError(f"{recipe.name} on {device}: no answer in {PROBE_SECONDS} s") from None
    instead = ""
    if torch.device(device).type == "cuda":
        instead = _next_best(recipe, torch.cuda.get_device_capability(device))
    return judge(recipe.name, found, done.returncode, done.stdout, done.stderr, instead)


def judge(name: str, found: Support, code: int, out: str, err: str, instead: str = "") -> Support:
    """What a probe's process said: its exit status, its one line of JSON, its errors."""
    last = next((line for line in reversed(err.strip().splitlines()) if line.strip()), "")
    if code == -signal.SIGILL or (code != 0 and any(words in err.lower() for words in _FOREIGN)):
        return Support(False, "no-kernel", last or "illegal instruction", instead)
    if code != 0:
        raise ProbeError(
            f"the probe of {name} ended with status {code}: {last or 'no message'}\n{err[-2000:]}"
        )
    said = json.loads(out.strip().splitlines()[-1])
    if said["error"] > said["bound"]:
        raise ProbeError(f"the probe of {name} computed something else: relative error {said['error']:.3g} against the "
                         f"reference, at most {said['bound']:.3g} is right; its kernel is broken here")  # fmt: skip
    if said["mode"] == "emulated" and found.mode != "emulated":
        return Support(False, "declared", said["note"] or "only emulated here", instead, "emulated")
    return dataclasses.replace(found, mode=said["mode"])
