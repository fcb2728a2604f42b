"""The catalogue fits the sources, and its runner tells caught from missed. The whole run: `make mutants`."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from qkernels import testing
from tests.mutants.catalogue import MUTANTS
from tests.mutants.checks import CHECKS, GEMM, QUANTIZER
from tests.mutants.equivalent import EQUIVALENT
from tests.mutants.mutant import PACKAGES, ROOT, Mutant, mutate, source_of
from tests.mutants.run import CAUGHT, CRASHED, DIED, MISSED, OUT_OF_BOUNDS, attempt
from tests.mutants.subjects import SUBJECTS

EVERY = (*MUTANTS, *(each.mutant for each in EQUIVALENT))
SAMPLE = ("e2m1-ties-away", "nvfp4-last-row-unwritten", "amax-without-abs", "gemm-row-mask-off-by-one",
          "linear-bias-dropped", "judge-sign-of-codes", "hadamard-transposed")  # fmt: skip


@pytest.mark.parametrize("mutant", EVERY, ids=lambda m: m.name)
def test_a_mutant_fits_the_present_source_and_names_a_check_that_exists(mutant: Mutant) -> None:
    ast.parse(mutate(source_of(mutant).read_text(), mutant))
    assert mutant.check in CHECKS
    family = mutant.check.partition(":")[0]
    assert mutant.on in SUBJECTS if mutant.on else family not in ("quantizer", "gemm", "exact")


def test_the_checks_are_those_of_the_packages_and_each_has_a_mutant() -> None:
    assert list(QUANTIZER) == list(testing.CHECKS)
    assert set(GEMM) == set(testing.GEMM_CHECKS)
    assert {m.check for m in MUTANTS} == set(CHECKS)
    assert {m.on for m in EVERY} - {""} == set(SUBJECTS)


def test_names_are_unique_and_every_kernel_has_mutants() -> None:
    assert [name for name, count in Counter(m.name for m in EVERY).items() if count > 1] == []
    about = {
        "compile_cases.py",
        "compile_products.py",
        "compile_quantizers.py",
        "compile_tensors.py",
        "expected.py",
    }  # what kernels compile to: tests/compile plants bugs for these
    # Gluon's kernels have no interpreter. They are judged on a GPU, by tests/property/test_fp4_stream.py and
    # tests/unit/test_mxfp4_folded.py; tests/compile/test_gluon.py compiles the two products of many rows.
    about |= {
        "fp4_few_parts.py",
        "fp4_few_sm90.py",
        "fp4_gemm_sm90.py",
        "mxfp4_gemm_sm90.py",
        "fp4_operand_sm90.py",
        "mxfp4_operand_sm90.py",
        "gluon_names.py",
    }
    files = {p.name for p in (PACKAGES["qkernels"] / "triton").glob("[a-z]*.py")} - about
    wanted = {f"qkernels/triton/{name}" for name in files} | {"qbench/model/attend.py"}
    assert wanted <= {m.file for m in MUTANTS}


def test_an_old_text_that_is_not_there_or_there_twice_is_an_error() -> None:
    mutant = Mutant("name", "x = 1", "x = 2", "bug", "codec", file="qkernels/codec.py")
    with pytest.raises(ValueError, match=r"occurs 0 times in qkernels/codec\.py, expected 1"):
        mutate("y = 1", mutant)
    with pytest.raises(ValueError, match="occurs 2 times"):
        mutate("x = 1\nx = 1", mutant)
    assert mutate("x = 1\nx = 1", dataclasses.replace(mutant, count=2)) == "x = 2\nx = 2"


def test_a_sample_is_caught_by_the_checks_meant() -> None:
    done = _run("-m", "tests.mutants", "--only", *SAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ESCAPED" not in done.stdout


MISSED_AND_BROKEN = """
import dataclasses, sys
from tests.mutants import __main__ as command
from tests.mutants.equivalent import EQUIVALENT
same = EQUIVALENT[0].mutant
alike = dataclasses.replace(same, check="hadamard", on="")
command.MUTANTS = alike, dataclasses.replace(same, name="no-python", new="(")
command.EQUIVALENT = ()
sys.exit(command.main([]))
"""


def test_a_mutant_that_is_missed_or_only_crashes_fails_the_run() -> None:
    done = _run("-c", MISSED_AND_BROKEN)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ESCAPED hadamard-transposed" in done.stdout
    assert "ESCAPED no-python" in done.stdout
    assert "crashed SyntaxError" in done.stdout


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("check", "dies", "verdict"),
    [
        (lambda: None, "", MISSED),
        (lambda: _raise(AssertionError("wrong")), "", CAUGHT),
        (lambda: _raise(AssertionError("raised IndexError: outside")), "", OUT_OF_BOUNDS),
        (lambda: _raise(AssertionError("raised NameError: no such name")), "", CRASHED),
        (lambda: _raise(AssertionError("raised NameError: no such name")), "NameError", DIED),
        (lambda: _raise(IndexError("outside")), "", OUT_OF_BOUNDS),
        (lambda: _raise(ValueError("odd")), "", CRASHED),
        (lambda: _raise(ValueError("odd")), "ValueError", DIED),
        (lambda: _raise(TypeError("odd")), "ValueError", CRASHED),
    ],
)
def test_a_check_that_fails_has_caught_a_crash_only_if_declared(
    check: Callable[[], None], dies: str, verdict: str
) -> None:
    assert attempt(check, dies)[0] == verdict


def test_no_mutant_of_that_name_is_an_error() -> None:
    assert _run("-m", "tests.mutants", "--only", "no-such-mutant").returncode == 2


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
