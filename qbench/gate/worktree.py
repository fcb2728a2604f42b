"""The base revision beside the working tree: a detached git worktree that is gone when the gate ends.

Worktrees live in the repository's own git folder, named by the process that made them. A gate that was killed outright
leaves its worktree; the next one removes those whose process no longer lives.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from qbench.gate.side import CannotMeasure


def git(root: Path, *words: str) -> str:
    """A git command's output. Raises CannotMeasure with git's words."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotMeasure(f"git cannot be run: {error}") from error
    if done.returncode:
        raise CannotMeasure(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def merge_base(root: Path, base: str) -> str:
    """The commit where the working tree's history left `base`. A shallow clone may not hold it: the error says so."""
    known = subprocess.run(["git", "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}"], cwd=root,
                           capture_output=True, text=True, check=False)  # fmt: skip
    if known.returncode:
        raise CannotMeasure(
            f"unknown base revision {base!r}; fetch it (git fetch origin), or name another with --base"
        )
    try:
        return git(root, "merge-base", base, "HEAD")
    except CannotMeasure as error:
        raise CannotMeasure(
            f"{base} and HEAD have no common commit here; a shallow clone needs git fetch --unshallow"
        ) from error


def describe(root: Path) -> str:
    """HEAD's short hash and subject, and whether the tree differs from it."""
    dirty = " with uncommitted changes" if git(root, "status", "--porcelain", "--untracked-files=no") else ""
    return git(root, "log", "-1", "--format=%h %s") + dirty


@contextlib.contextmanager
def worktree(root: Path, commit: str) -> Iterator[Path]:
    """A checkout of `commit`, removed on the way out, whatever the reason."""
    home = Path(git(root, "rev-parse", "--path-format=absolute", "--git-common-dir")) / "qbench-gate"
    _remove_abandoned(root, home)
    place = home / str(os.getpid())
    git(root, "worktree", "add", "--detach", "--force", str(place), commit)
    try:
        yield place
    finally:
        _remove(root, place)


def _remove_abandoned(root: Path, home: Path) -> None:
    for place in home.glob("*"):
        if place.name.isdigit() and not _lives(int(place.name)):
            _remove(root, place)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(root: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(CannotMeasure):
        git(root, "worktree", "prune")
