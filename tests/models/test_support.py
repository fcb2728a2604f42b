"""What cannot run is known before it crashes, and a broken kernel is not taken for one that does not exist."""

from __future__ import annotations

import json
import signal

import pytest
import torch

from qkernels.models import RECIPES, ProbeError, Recipe, Support, probe, support
from qkernels.models.support import by_table, judge

A100, L40, H200, B200, T4 = (8, 0), (8, 9), (9, 0), (10, 0), (7, 5)
FOUND = Support(True, "ok", "a GPU", mode="native")
SAID = {"mode": "native", "backend": "torch-scaled-mm", "note": "", "error": 1e-3, "bound": 1e-2}


@pytest.mark.parametrize("recipe", RECIPES)
def test_on_a_cpu_every_recipe_runs_emulated(recipe: str) -> None:
    found = support(recipe, "cpu")
    assert (found.ok, found.code) == (True, "ok")
    assert found.mode == ("none" if recipe == "bf16" else "emulated")


@pytest.mark.parametrize(
    ("recipe", "capability", "ok", "instead", "mode"),
    [
        ("bf16", T4, True, "", "none"),
        ("fp8", A100, False, "int8", "none"),
        ("fp8", L40, True, "", "native"),
        ("int8", T4, False, "bf16", "none"),
        ("int8", A100, True, "", "native"),
        ("nvfp4-w4a16", T4, False, "bf16", "none"),
        ("nvfp4-w4a4", A100, True, "", "weight-only"),
        ("nvfp4-w4a4", H200, True, "", "weight-only"),
        ("mxfp4-w4a4", A100, True, "", "weight-only"),
        ("mxfp4-w4a4", H200, True, "", "native"),
        ("mxfp4-w4a4", B200, True, "", "weight-only"),  # no layer here uses Blackwell's FP4 units yet
        ("nemotron-nano", H200, True, "", "weight-only"),
    ],
)
def test_the_table(recipe: str, capability: tuple[int, int], ok: bool, instead: str, mode: str) -> None:
    found = by_table(RECIPES[recipe], capability, "RTX PRO 6000")
    assert (found.ok, found.instead, found.mode) == (ok, instead, mode)
    assert found.code == ("ok" if ok else "capability")
    assert "RTX PRO 6000 of compute capability {}.{}".format(*capability) in found.reason


@pytest.mark.parametrize("capability", [T4, A100, L40, H200, B200])
@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_offered_instead_runs(recipe: str, capability: tuple[int, int]) -> None:
    found = by_table(RECIPES[recipe], capability)
    if not found.ok:
        assert by_table(RECIPES[found.instead], capability).ok


def test_a_device_that_is_not_there_is_no_failure_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = support("fp8", "cuda:0")
    assert (found.ok, found.code) == (False, "no-device")
    assert support("fp8", "mps").code == "vendor"


def test_a_missing_library_is_named_after_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, H200)
    assert support("fp8", "cuda").mode == "native"
    monkeypatch.delattr(torch, "_scaled_mm")
    found = support("fp8", "cuda")
    assert (found.code, found.instead) == ("import", "int8")
    assert "torch._scaled_mm" in found.reason
    pretend_gpu(monkeypatch, A100)
    assert support("fp8", "cuda").code == "capability"


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    for name, value in {
        "is_available": True, "device_count": 1, "get_device_name": "A GPU", "get_device_capability": capability
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *args, value=value: value)


def test_a_probe_that_answers_says_the_mode() -> None:
    assert judge("fp8", FOUND, 0, f"noise\n{json.dumps(SAID)}\n", "a warning") == FOUND


@pytest.mark.parametrize(
    ("code", "err", "reason"),
    [
        (-signal.SIGILL, "", "illegal instruction"),
        (
            1,
            "...\nRuntimeError: CUDA error: no kernel image is available for execution on the device",
            "no kernel image",
        ),
        (
            1,
            "torch.AcceleratorError: CUDA error: an illegal instruction was encountered",
            "illegal instruction",
        ),
    ],
)
def test_code_for_another_gpu_is_a_lack_of_support(code: int, err: str, reason: str) -> None:
    found = judge("fp8", FOUND, code, "", err, "int8")
    assert (found.ok, found.code, found.instead) == (False, "no-kernel", "int8")
    assert reason in found.reason


def test_a_layer_that_only_emulates_where_it_should_not_is_declared() -> None:
    said = {**SAID, "mode": "emulated", "note": "N = 60"}
    found = judge("fp8", FOUND, 0, json.dumps(said), "", "int8")
    assert (found.ok, found.code, found.reason, found.mode) == (False, "declared", "N = 60", "emulated")


@pytest.mark.parametrize(
    ("code", "out", "err", "words"),
    [
        (1, "", "Traceback\nTypeError: unsupported operand", "status 1: TypeError"),
        (-signal.SIGSEGV, "", "", "status -11: no message"),
        (
            1,
            "",
            "RuntimeError: CUDA error: an illegal memory access was encountered",
            "illegal memory access",
        ),
        (0, json.dumps({**SAID, "error": 0.5}), "", "relative error 0.5 .* its kernel is broken"),
    ],
)
def test_anything_else_is_a_failure(code: int, out: str, err: str, words: str) -> None:
    with pytest.raises(ProbeError, match=words):
        judge("fp8", FOUND, code, out, err)


def test_a_probe_runs_a_layer_in_a_process_of_its_own() -> None:
    """A recipe of one's own goes there whole: with a rotation and a static scale."""
    mine = Recipe("mine", "nvfp4", "nvfp4", "static", hadamard=16)
    assert probe(mine, "cpu") == Support(True, "ok", support(mine, "cpu").reason, mode="emulated")


def test_a_probe_of_a_broken_layer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is this one's Python with a bound that no rounding meets."""
    from qkernels.models import probe_layer

    said: list[str] = []
    monkeypatch.setattr("builtins.print", said.append)
    fields = {"name": "mine", "weight": "fp8_token", "activation": "fp8_token", "global_scale": "", "hadamard": None,
              "skip": [], "source": ""}  # fmt: skip
    probe_layer.main(["cpu", json.dumps(fields)])
    assert json.loads(said[0])["error"] == 0.0

    broken = probe_layer.fastest

    def shifted(layer, dtype):  # type: ignore[no-untyped-def]
        layer.weight_scale = layer.weight_scale.roll(1, 0)
        return broken(layer, dtype)

    monkeypatch.setattr(probe_layer, "fastest", shifted)
    probe_layer.main(["cpu", json.dumps(fields)])
    with pytest.raises(ProbeError, match="its kernel is broken"):
        judge("mine", FOUND, 0, said[1], "")


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_probe_on_the_gpu_agrees_with_the_table(recipe: str) -> None:
    found = support(recipe, "cuda")
    assert probe(recipe, "cuda") == found
