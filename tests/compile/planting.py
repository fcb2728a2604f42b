"""Kernels with a change planted in a copy of them: imported beside the unchanged ones, recorded, built, judged.

The copy's modules bear the names of the originals, for a launch and its metrics must not depend on where a file lies;
while it is imported it stands in their place, and everything is put back. The tree is never touched.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import qkernels
from qbench.aot.build import Built, build
from qbench.aot.cases import CompileCase
from qbench.aot.driver import recording
from qbench.aot.judge import CompileVerdict, judge
from qbench.aot.launch import Launch
from qbench.aot.target import get_target

SOURCE = Path(qkernels.__file__).parent / "triton"
PACKAGE = "qkernels.triton"
Edit = tuple[str, str, str]  # file, text that occurs exactly once there, what it becomes


@dataclass(frozen=True)
class Change:
    """A change to the kernels, or to how one is launched, seen in one case.

    case    name of the case, among compile_cases.all_cases() or `toys`
    edits   to the sources
    launch  in place of the case's launch, given the module compile_cases (of the copy, if there are edits)
    words   what the verdict must say; all of them
    """

    name: str
    case: str
    words: tuple[str, ...] = ()
    edits: tuple[Edit, ...] = ()
    launch: Callable[[Any], object] | None = field(default=None, compare=False)
    target: str = "sm_90"


@dataclass(frozen=True)
class Comparison:
    """Every kernel of a case: unchanged, and with the change."""

    case: CompileCase
    before: list[Built]
    after: list[Built]

    def verdicts(self) -> list[CompileVerdict]:
        """Judged as the gate does, the unchanged kernel being what is stored."""
        assert [b.launch.id for b in self.before] == [a.launch.id for a in self.after]
        found = []
        for before, after in zip(self.before, self.after, strict=True):
            assert before.metrics is not None, before.error
            assert after.metrics is not None, after.error
            expectation = self.case.expectation(before.launch.id)
            assert expectation is not None
            found.append(judge(after.metrics, before.metrics, expectation, before.launch.target))
        return found


def compare(
    changes: Sequence[Change], folder: Path, toys: Sequence[CompileCase] = ()
) -> dict[str, Comparison]:
    """Build all changes and what they are compared with, together. By the change's name."""
    originals = importlib.import_module(f"{PACKAGE}.compile_cases")
    known = {case.name: case for case in (*originals.all_cases(), *toys)}
    recorded: list[tuple[Change, list[Launch], list[Launch]]] = []
    before: dict[tuple[str, str], list[Launch]] = {}
    kept: list[str] = []
    try:
        for place, change in enumerate(changes):
            key = (change.case, change.target)
            if key not in before:
                before[key] = record(known[change.case].launch, change.target)
            if change.edits:
                with copied(change.edits, folder / str(place)) as copies:
                    made = {case.name: case for case in copies.all_cases()}
                    launch = (
                        made[change.case].launch
                        if change.launch is None
                        else lambda c=change: c.launch(copies)
                    )
                    after = record(launch, change.target)
                    kept += keep(f"planted{place}")
            else:
                assert change.launch is not None
                after = record(lambda c=change: c.launch(originals), change.target)
            recorded.append((change, before[key], after))
        launches = [launch for _change, *both in recorded for these in both for launch in these]
        built = iter(build(launches))
    finally:
        for name in kept:
            sys.modules.pop(name, None)
    return {
        change.name: Comparison(
            known[change.case], [next(built) for _ in first], [next(built) for _ in second]
        )
        for change, first, second in recorded
    }


def record(launch: Callable[[], object], target: str) -> list[Launch]:
    with recording(get_target(target)) as launches:
        launch()
    return launches


@contextmanager
def copied(edits: Sequence[Edit], folder: Path) -> Iterator[Any]:
    """compile_cases of a copy of the kernels with these edits, in the originals' place meanwhile."""
    shutil.copytree(SOURCE, folder / "triton", ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in edits:
        path = folder / "triton" / file
        text = path.read_text()
        if text.count(old) != 1 or old == new:
            raise ValueError(f"{old!r} occurs {text.count(old)} times in {file}; bring the edit up to date")
        path.write_text(text.replace(old, new))
    originals = {name: sys.modules.pop(name) for name in list(sys.modules) if _ours(name)}
    attribute = vars(qkernels).get("triton")
    try:
        place = folder / "triton"
        spec = spec_from_file_location(
            PACKAGE, place / "__init__.py", submodule_search_locations=[str(place)]
        )
        assert spec is not None and spec.loader is not None
        package = sys.modules[PACKAGE] = module_from_spec(spec)
        spec.loader.exec_module(package)
        cases = importlib.import_module(f"{PACKAGE}.compile_cases")
        assert cases.__file__ is not None and Path(cases.__file__).is_relative_to(folder)
        yield cases
    finally:
        for name in [name for name in sys.modules if _ours(name)]:
            del sys.modules[name]
        sys.modules.update(originals)
        if attribute is not None:
            qkernels.triton = attribute


def keep(alias: str) -> list[str]:
    """Let the copy's modules be found under other names until they are built: the compiler looks for them."""
    names = {name: f"{alias}.{name}" for name in list(sys.modules) if _ours(name)}
    sys.modules.update({new: sys.modules[old] for old, new in names.items()})
    return list(names.values())


def _ours(name: str) -> bool:
    return f"{name}.".startswith(f"{PACKAGE}.")
