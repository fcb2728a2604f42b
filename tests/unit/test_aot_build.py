"""Building launches: failures in one line, one compilation for what is the same, metrics kept between runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import qbench.aot.build
from qbench.aot import Launch, recording
from qbench.aot import cache as stored
from qbench.aot.build import build
from tests.unit import aot_kernels as toys


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and a place for temporary files that can be looked into."""
    monkeypatch.setenv("QBENCH_COMPILE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return tmp_path


def record(launch: Callable[[], object], target: str = "sm_90") -> list[Launch]:
    with recording(target) as launches:
        launch()
    return launches


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many there were, one number for each call of build."""
    counts: list[int] = []
    original = qbench.aot.build.isolated

    def counting(tasks, **named):
        counts.append(len(tasks))
        return original(tasks, **named)

    monkeypatch.setattr(qbench.aot.build, "isolated", counting)
    return counts


def test_each_failure_is_one_line_and_the_others_compile(
    folders: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    x = torch.empty(128)

    def launcher() -> None:
        toys.undefined_kernel[(1,)](x)
        toys.nested_error_kernel[(1,)](x)
        toys.bad_assembly_kernel[(1,)](x)
        toys.copy(x)

    undefined, nested, assembly, good = build(record(launcher))
    assert undefined.error == (
        "CompilationError in `tl.store(x_ptr, no_such_function(3)) # noqa: F821`: "
        "NameError('no_such_function is not defined')"
    )
    assert nested.error.startswith("CompilationError in `return value.no_such_method(3)`: AttributeError(")
    assert assembly.error == "ptxas: Not a name of any known instruction: 'frobnicate'"
    assert [undefined.metrics, nested.metrics, assembly.metrics] == [None, None, None]
    assert good.metrics is not None and good.error == ""
    assert capfd.readouterr() == ("", "")
    assert list((folders / "scratch").iterdir()) == []


def test_time_that_runs_out_is_a_line_and_is_not_kept() -> None:
    launches = record(lambda: toys.copy(torch.empty(128)))
    assert build(launches, timeout_s=0.001)[0].error == "the compiler was not done after 0.001 s"
    assert build(launches)[0].error == ""


def test_what_is_the_same_is_compiled_once_and_kept(compilations: list[int], folders: Path) -> None:
    def launcher() -> None:
        toys.copy(torch.empty(4096))
        toys.copy(torch.empty(8192))  # another grid, and another n of the same divisibility
        toys.copy(torch.empty(4096, dtype=torch.int8))

    launches = record(launcher)
    first = build(launches)
    assert [each.metrics.programs for each in first if each.metrics] == [4, 8, 4]
    assert build(record(launcher)) == first
    assert build(launches, cache=False) == first
    assert build(record(launcher, "sm_80")) != first
    assert compilations == [2, 0, 2, 2]
    assert len(list((folders / "cache").iterdir())) == 6


def test_a_broken_entry_is_compiled_again(compilations: list[int], folders: Path) -> None:
    launches = record(lambda: toys.copy(torch.empty(4096)))
    first = build(launches)
    key = stored.metrics_key(launches[0])
    assert stored.load(key) == first[0].metrics
    entry = folders / "cache" / f"{key}.json"
    whole = entry.read_text()
    for content in ("", "{", "[]", "null", '{"registers": 3}', whole.replace("128", '"wide"'), whole[:-1]):
        entry.write_text(content)
        assert stored.load(key) is None
    assert build(launches) == first == build(launches)
    assert compilations == [1, 1, 0]


def test_a_folder_that_cannot_be_written_does_no_harm(monkeypatch: pytest.MonkeyPatch, folders: Path) -> None:
    (folders / "file").write_text("")
    monkeypatch.setenv("QBENCH_COMPILE_CACHE", str(folders / "file" / "cache"))
    assert build(record(lambda: toys.copy(torch.empty(128))))[0].metrics is not None


def test_nothing_to_build() -> None:
    assert build([]) == []
