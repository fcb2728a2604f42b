"""A planted bug as data: one exact replacement in one source file, and the check that must notice it."""

from __future__ import annotations

import compileall
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"qkernels": ROOT / "kernels" / "qkernels", "qbench": ROOT / "qbench"}


@dataclass(frozen=True)
class Mutant:
    """`old`, which occurs exactly `count` times in `file`, becomes `new`.

    name    unique, words joined by "-"
    file    path from the folder that holds the package: "qkernels/triton/fp4.py"
    bug     what is wrong, in words a user would use
    check   the one check meant to catch it, a name of checks.CHECKS
    on      the subject it is run on (subjects.py); "" for a check that chooses its own
    dies    name of the exception that counts as caught besides a failed check; "" for none. An IndexError of the
            interpreter, an access outside every argument, always counts
    """

    name: str
    old: str
    new: str
    bug: str
    check: str
    on: str = ""
    count: int = 1
    dies: str = ""
    file: str = field(kw_only=True)

    @property
    def target(self) -> Target:
        return Target(self.check, self.on)


@dataclass(frozen=True, order=True)
class Target:
    """A check and the subject it is run on."""

    check: str
    on: str = ""

    def __str__(self) -> str:
        return f"{self.check}[{self.on}]" if self.on else self.check


def mutate(source: str, mutant: Mutant) -> str:
    """The source with the bug planted; ValueError if `old` is not there exactly `count` times."""
    found = source.count(mutant.old)
    if found != mutant.count or mutant.old == mutant.new:
        raise ValueError(
            f"mutant {mutant.name}: its old text occurs {found} times in {mutant.file}, expected {mutant.count}; "
            "bring the catalogue up to date with the source"
        )
    return source.replace(mutant.old, mutant.new)


def source_of(mutant: Mutant) -> Path:
    """The file a mutant changes, in this repository."""
    package, rest = mutant.file.split("/", 1)
    return PACKAGES[package] / rest


def snapshot(folder: Path) -> None:
    """Copy the packages into `folder`, compiled: a run is not disturbed by edits made meanwhile."""
    for name, path in PACKAGES.items():
        shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    compileall.compile_dir(folder, quiet=2, workers=1)


def plant(mutant: Mutant | None, snapshot: Path, folder: Path) -> None:
    """The snapshot in `folder` (hard links), but for one file with the bug in it (None: without one)."""
    shutil.copytree(snapshot, folder, dirs_exist_ok=True, copy_function=os.link)
    if mutant is None:
        return
    path = folder / mutant.file
    text = mutate(path.read_text(), mutant)
    for linked in (path, *(path.parent / "__pycache__").glob(f"{path.stem}.*.pyc")):
        linked.unlink()
    path.write_text(text)


@dataclass(frozen=True)
class Equivalent:
    """A mutant that changes no result that is promised, and why. The check must not notice it."""

    mutant: Mutant
    proof: str
