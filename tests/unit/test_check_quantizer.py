"""check_quantizer: passes what is right, catches what is broken, and says which bug it is and how to see it again."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis.database import InMemoryExampleDatabase

from qbench import Unsupported, WrongResult
from qkernels.format import FORMATS, FP8, INT8, INT8_ASYM, MXFP4, NVFP4, NVFP4_1L, Format
from qkernels.ops.quantize import QuantizeOptions
from qkernels.providers.torch_quantize import torch_exact
from qkernels.tensor import QTensor
from qkernels.testing import CHECKS, check_quantizer, replay
from tests.unit import strangers

ROOT = Path(__file__).parents[2]
Provider = Callable[[torch.Tensor, QuantizeOptions], Callable[[], QTensor]]


def failure(provider: Provider, fmt: Format, **named: Any) -> str:
    """What the check says. It ends at the first failure, so that many examples cost little and none is missed."""
    with pytest.raises(WrongResult) as caught:
        check_quantizer(provider, fmt, examples=200, device="cpu", **named)
    return str(caught.value)


def program(message: str) -> str:
    """The reproducer in a message."""
    return re.sub(r"^    ", "", message.split("reproduce with:\n")[1], flags=re.MULTILINE)


def finding(message: str) -> str:
    return message.split("\nreproduce with:")[0]


# What is right ----------------------------------------------------------------------------------------------


def test_correct_quantizers_of_third_parties_pass() -> None:
    check_quantizer(strangers.right_mxfp4, MXFP4, examples=10, device="cpu")
    check_quantizer(strangers.right_nvfp4, NVFP4, examples=10, device="cpu")
    check_quantizer(strangers.right_nvfp4, "nvfp4", global_scale=50.0, examples=10, device="cpu")


def test_a_provider_of_contiguous_bf16_with_k_of_128_passes_and_the_rest_is_skipped() -> None:
    seen: set[tuple[torch.dtype, bool, int]] = set()

    def watched(x: torch.Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
        thunk = strangers.only_bf16(x, options)
        seen.add((x.dtype, x.is_contiguous(), x.shape[-1] % 128))
        return thunk

    check_quantizer(watched, MXFP4, examples=10, device="cpu")
    assert seen == {(torch.bfloat16, True, 0)}


def test_a_provider_that_refuses_everything_is_an_error_with_its_reason() -> None:
    message = failure(strangers.refuses_everything, MXFP4)
    assert "nothing of it was checked" in message
    assert "not built for this machine" in message


def test_a_check_whose_inputs_are_all_refused_is_an_error() -> None:
    def few_rows(x: torch.Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
        if len(x) > 2:
            raise Unsupported("M > 2")
        return strangers.right_mxfp4(x, options)

    check_quantizer(few_rows, MXFP4, examples=10, device="cpu", checks=["boundaries", "shapes"])
    message = failure(few_rows, MXFP4, checks=["rows"])
    assert 'refused every input of the check "rows"' in message
    assert "M > 2" in message


# What is broken ---------------------------------------------------------------------------------------------

BROKEN = {
    "truncates": (
        MXFP4,
        "boundaries",
        "normal numbers: every wrong code is one step too small: likely truncation",
    ),
    "rounds_ties_away": (MXFP4, "boundaries", "likely ties rounded away from zero"),
    "ignores_global_scale": (NVFP4, "boundaries", "likely the global scale was not applied"),
    "forgets_the_last_row": (MXFP4, "boundaries", "likely never written"),
    "ignores_strides": (MXFP4, "layouts", "likely the strides or the offset of x are ignored"),
    "swaps_nibbles": (MXFP4, "boundaries", "likely nibble order"),
    "flips_a_bit_now_and_then": (MXFP4, "repeat", "two calls of the same thunk on one input differ in codes"),
    "drops_a_tail": (MXFP4, "shapes", "is no multiple of the block 32, and a result came back"),
    "writes_into_its_input": (MXFP4, "boundaries", "wrote into the memory of its input"),
    "keeps_nan_out": (MXFP4, "nonfinite", "allowed 0xff"),
    "crashes_on_no_rows": (MXFP4, "shapes", "raised IndexError"),
    "depends_on_the_batch": (MXFP4, "boundaries", "wrong code"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_quantizer_is_caught_and_its_bug_named(name: str) -> None:
    fmt, check, words = BROKEN[name]
    message = failure(getattr(strangers, name), fmt)
    assert message.startswith(f"{name} is not a correct {fmt.name} quantizer")
    assert f'check "{check}"' in message
    assert words in message


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("truncates", "values"),
        ("truncates", "ties"),
        ("rounds_ties_away", "ties"),
        ("rounds_ties_away", "values"),
        ("swaps_nibbles", "values"),
        ("swaps_nibbles", "properties"),
        ("forgets_the_last_row", "stale"),
        ("forgets_the_last_row", "shapes"),
        ("depends_on_the_batch", "rows"),
        ("ignores_strides", "layouts"),
        ("keeps_nan_out", "nonfinite"),
    ],
)
def test_the_check_meant_for_a_bug_catches_it_alone(name: str, check: str) -> None:
    assert f'check "{check}"' in failure(getattr(strangers, name), MXFP4, checks=[check])


def test_ties_rounded_away_are_caught_where_the_comparator_alone_would_let_them_pass() -> None:
    """NVFP4 allows either code beside a tie; where all arithmetic is exact only the even one is right."""

    def away(x: torch.Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
        strangers.shaped(x, 16)

        def run() -> QTensor:
            data, scale = strangers.nvfp4(x, torch.ones(()), strangers.away_from_zero)
            return QTensor(data, scale, options.format, tuple(x.shape))

        return run

    message = failure(away, NVFP4_1L, checks=["ties"])
    assert "wrong code where arithmetic is exact" in message
    assert "likely ties rounded away from zero" in message


def test_a_result_kept_from_an_earlier_call_is_stale() -> None:
    def writes_once(x: torch.Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
        made: list[QTensor] = []

        def run() -> QTensor:
            if not made:
                made.append(strangers.right_mxfp4(x, options)())
            return made[0]

        return run

    message = failure(writes_once, MXFP4, checks=["stale"])
    assert "the last result was overwritten before this call" in message


def test_an_error_of_the_device_is_no_refusal_of_a_layout() -> None:
    def crashes(x: torch.Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
        if not x.is_contiguous() or x.data_ptr() % 16:
            raise RuntimeError("CUDA error: misaligned address")
        return strangers.right_mxfp4(x, options)

    assert "misaligned address" in failure(crashes, MXFP4, checks=["layouts"])


def test_no_quantized_tensor_at_all_is_named() -> None:
    def pair(x: torch.Tensor, options: QuantizeOptions) -> Callable[[], Any]:
        return lambda: strangers.mxfp4(x)

    assert "returned a tuple, expected a QTensor" in failure(pair, MXFP4)


@pytest.mark.parametrize(
    ("fmt", "field", "words"),
    [
        ("fp8_token", "scale", r"scale of fp8_token has shape \[\d+\], expected \[\d+, 1\]"),
        ("int8_asym", "zero_point", r"zero point of int8_asym has shape"),
        ("fp8", "scale", r"scale of fp8 has shape \[1, 1\], expected \[1\]"),
        ("nvfp4", "global_scale", "global scale is torch.float64, expected torch.float32"),
    ],
)
def test_scales_of_another_shape_or_type_are_named(fmt: str, field: str, words: str) -> None:
    def odd(x: torch.Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
        def run() -> QTensor:
            q = torch_exact(x, options)()
            found = getattr(q, field)
            other = found.flatten() if found.dim() == 2 else found[:, None] if found.dim() else found.double()
            return dataclasses.replace(q, **{field: other})

        return run

    with pytest.raises(WrongResult, match=words):
        check_quantizer(odd, fmt, checks=["shapes"], device="cpu")


@pytest.mark.parametrize("name", ["truncates", "swaps_nibbles", "depends_on_the_batch"])
def test_what_fails_is_shrunk_to_one_row_of_one_block_or_one_element(name: str) -> None:
    """Raw bit patterns shrink element by element, and may keep the zeros around the one left."""
    message = failure(getattr(strangers, name), MXFP4, checks=["values"])
    small = r"^case: \w+ (\[1, 32\], contiguous, values |\[1, \d+\], contiguous, 1 of \d+ elements not zero)"
    assert re.search(small, message, re.MULTILINE), message


def test_a_quantizer_that_is_not_deterministic_is_reported_not_called_flaky() -> None:
    calls = iter(range(1 << 30))

    def sometimes(x: torch.Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
        rounding = strangers.toward_zero if next(calls) % 5 == 4 else strangers.to_even
        return lambda: QTensor(*strangers.mxfp4(x, rounding), options.format, tuple(x.shape))

    for check in ("values", "properties"):
        with pytest.raises(WrongResult):
            check_quantizer(sometimes, MXFP4, examples=60, device="cpu", checks=[check])


# Reproducers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "forgets_the_last_row"])
def test_a_reproducer_fails_as_the_check_did(name: str) -> None:
    message = failure(getattr(strangers, name), BROKEN[name][0])
    with pytest.raises(WrongResult) as again:
        exec(program(message), {})
    assert finding(str(again.value)) == finding(message)


@pytest.mark.parametrize("check", ["values", "properties", "ties", "layouts"])
def test_a_reproducer_of_each_kind_of_check_runs(check: str) -> None:
    message = failure(strangers.truncates, MXFP4, checks=[check])
    with pytest.raises(WrongResult) as again:
        exec(program(message), {})
    assert finding(str(again.value)) == finding(message)


def test_a_reproducer_is_a_program(tmp_path: Path) -> None:
    message = failure(strangers.ignores_global_scale, NVFP4, checks=["shapes"])
    paths = os.pathsep.join((str(ROOT), str(ROOT / "kernels")))
    done = subprocess.run(
        [sys.executable, "-c", program(message)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert finding(message) in done.stderr


def test_a_reproducer_states_the_options_and_where_a_local_function_is() -> None:
    def local(x: torch.Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
        return strangers.ignores_global_scale(x, options)

    message = failure(local, NVFP4, global_scale=50.0)
    assert "global_scale=50.0" in program(message)
    assert re.search(r"# local is .*<locals>\.local of .*test_check_quantizer\.py:\d+", program(message))
    with pytest.raises(WrongResult):
        exec(program(message), {"local": local})


def test_replay_of_a_right_quantizer_says_nothing() -> None:
    replay(strangers.right_mxfp4, MXFP4, torch.ones(2, 32), check="rows")


# Hypothesis -------------------------------------------------------------------------------------------------


@pytest.fixture
def database() -> Iterator[InMemoryExampleDatabase]:
    before = settings.get_current_profile_name()
    kept = InMemoryExampleDatabase()
    settings.register_profile("kept", database=kept, derandomize=False)
    settings.load_profile("kept")
    yield kept
    settings.load_profile(before)


def test_a_failing_example_is_stored_and_tried_first_the_next_time(database: InMemoryExampleDatabase) -> None:
    first = failure(strangers.truncates, MXFP4, checks=["values"])
    assert database.data
    calls = 0

    def truncates(x: torch.Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
        nonlocal calls
        calls += 1
        return strangers.truncates(x, options)

    truncates.__module__, truncates.__qualname__ = strangers.__name__, "truncates"
    with pytest.raises(WrongResult) as again:
        check_quantizer(truncates, MXFP4, examples=1, device="cpu", checks=["values"])
    assert finding(str(again.value)) == finding(first)
    kept = {key: set(values) for key, values in database.data.items()}
    check_quantizer(strangers.right_mxfp4, MXFP4, examples=10, device="cpu", checks=["values"])
    assert all(database.data[key] == values for key, values in kept.items()), (
        "another's failures are left alone"
    )


# Arguments --------------------------------------------------------------------------------------------------


def test_unknown_and_inapplicable_checks_and_options_are_refused_by_name() -> None:
    for checks, words in (
        (["tyes"], "unknown check 'tyes'; known: boundaries, shapes"),
        (["rows"], "check 'rows' does not apply: every row of nvfp4 depends"),
        ("ties", "pass a list of names"),
    ):
        with pytest.raises(ValueError, match=words):
            check_quantizer(torch_exact, NVFP4, checks=checks)
    with pytest.raises(ValueError, match="takes no global_scale"):
        check_quantizer(torch_exact, MXFP4, global_scale=2.0)
    with pytest.raises(ValueError, match="unknown format 'nvpf4'"):
        check_quantizer(torch_exact, "nvpf4")


def test_names_of_checks_stay() -> None:
    """Others name them."""
    assert list(CHECKS) == ["boundaries", "shapes", "layouts", "nonfinite", "ties", "values", "properties", "rows",
                            "repeat", "stale"]  # fmt: skip


def test_static_options_reach_the_provider_as_tensors() -> None:
    for fmt, given in (
        (FP8, {"scale": 0.07}),
        (INT8, {}),
        (INT8_ASYM, {"scale": 0.03, "zero_point": -5}),
        (FORMATS["nvfp4_token"], {"global_scale": 50.0}),
    ):
        seen: list[QuantizeOptions] = []

        def watched(x: torch.Tensor, options: QuantizeOptions, seen: Any = seen) -> Callable[[], QTensor]:
            seen.append(options)
            return torch_exact(x, options)

        check_quantizer(watched, fmt, checks=["boundaries", "rows"], device="cpu", **given)
        for options in seen:
            for value, dtype in ((options.scale, torch.float32), (options.zero_point, torch.int32)):
                assert value is None or (value.dtype == dtype and value.shape == (1,))
            assert (options.scale is not None) == (fmt is INT8 or "scale" in given)
