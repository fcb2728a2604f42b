"""The base revision beside the working tree: a detached git worktree that is gone when the gate ends.

Worktrees live in the repository's own git folder, each with a file that its gate holds locked. A gate that was killed
outright leaves its worktree; the next one removes those whose lock nobody holds (a process id would not do: they are
used again, and two containers have the same ones).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from qbench.gate.side import CannotMeasure
from qbench.result import locked

HOME = "qbench-gate"
_LOCAL = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")  # set where a git hook starts the gate


def git(root: Path, *words: str) -> str:
    """A git command's output, without the newline at its end. Raises CannotMeasure with git's words."""
    environment = {name: value for name, value in os.environ.items() if name not in _LOCAL}
    try:
        # no hooks: a checkout of the base is nobody's business
        done = subprocess.run(["git", "-c", f"core.hooksPath={os.devnull}", *words], cwd=root, env=environment,
                              capture_output=True, text=True, errors="replace", check=False)  # fmt: skip
    except OSError as error:
        raise CannotMeasure(f"git cannot be run: {error}") from error
    if done.returncode:
        raise CannotMeasure(f"git {' '.join(words)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout.rstrip("\n")


def top_level(folder: Path) -> Path:
    """The root of the working tree that holds `folder`."""
    try:
        return Path(git(folder, "rev-parse", "--show-toplevel"))
    except CannotMeasure as error:
        raise CannotMeasure(f"{folder} is in no git working tree, so there is no base to compare with ({error}); "
                            "for times against stored ones: pytest --benchmark-only") from error  # fmt: skip


def project(folder: Path, top: Path) -> Path:
    """The nearest folder from here up to `top` that has a pyproject.toml; `top` where none has."""
    for each in (folder, *folder.parents):
        if not each.is_relative_to(top):
            break
        if (each / "pyproject.toml").exists():
            return each
    return top


def merge_base(root: Path, base: str) -> str:
    """The commit where the working tree's history left `base`. A shallow clone may not hold it: the error says so."""
    shallow = git(root, "rev-parse", "--is-shallow-repository") == "true"
    deepen = "this clone is shallow: git fetch --unshallow (actions/checkout: fetch-depth: 0)"
    for revision in ("HEAD", base):
        try:
            git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        except CannotMeasure as error:
            if revision == "HEAD" and base != "HEAD":
                raise CannotMeasure("HEAD is no commit yet; commit something first") from error
            hint = deepen if shallow else "fetch it (git fetch origin), or name another with --base"
            raise CannotMeasure(f"unknown base revision {base!r}; {hint}") from error
    try:
        return git(root, "merge-base", base, "HEAD")
    except CannotMeasure as error:
        hint = deepen if shallow else "their histories are unrelated; name another revision with --base"
        raise CannotMeasure(f"{base} and HEAD have no common commit here; {hint}") from error


def describe(root: Path, commit: str = "HEAD") -> str:
    """A commit's short hash and subject; for HEAD, also whether the tree differs from it."""
    named = git(root, "log", "-1", "--format=%h %s", commit)
    return named + (" with uncommitted changes" if commit == "HEAD" and changed(root) else "")


def changed(root: Path) -> bool:
    """Does the working tree hold anything that HEAD does not, untracked files included?"""
    return bool(git(root, "status", "--porcelain"))


@contextlib.contextmanager
def worktree(root: Path, commit: str) -> Iterator[Path]:
    """A checkout of `commit`, removed on the way out, whatever the reason."""
    home = Path(git(root, "rev-parse", "--path-format=absolute", "--git-common-dir")) / HOME
    home.mkdir(exist_ok=True)
    place = home / uuid.uuid4().hex[:12]
    with locked(home):  # against another gate that is about to remove what has no holder
        _remove_abandoned(root, home)
        mine = os.open(_lock_of(place), os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(mine, fcntl.LOCK_EX)
    try:
        git(root, "worktree", "add", "--detach", "--force", str(place), commit)
        yield place
    finally:
        _remove(root, place)
        os.close(mine)


def _lock_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.lock")


def _remove_abandoned(root: Path, home: Path) -> None:
    for path in home.glob("*.lock"):
        try:
            handle = os.open(path, os.O_RDWR)
        except FileNotFoundError:  # its gate has just ended
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its gate is running
        else:
            _remove(root, path.with_suffix(""))
        finally:
            os.close(handle)


def _remove(root: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(CannotMeasure):
        git(
            root, "worktree", "unlock", str(place)
        )  # git locks one while it makes it, and may have been killed then
    with contextlib.suppress(CannotMeasure):
        git(root, "worktree", "prune")
    _lock_of(place).unlink(missing_ok=True)
