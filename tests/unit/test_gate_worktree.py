"""The base's worktree: what git says in words, and that nothing of it stays, whatever ended the gate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qbench.gate.command import tidy_on_signals
from qbench.gate.side import CannotMeasure
from qbench.gate.worktree import HOME, changed, describe, git, merge_base, project, top_level, worktree
from tests import gates

KILLED_INSIDE = """
import os, signal, sys
from pathlib import Path
from qbench.gate.worktree import worktree
with worktree(Path(sys.argv[1]), "HEAD") as place:
    print(place, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "with a space"
    folder.mkdir()
    gates.git(folder, "init", "--quiet")
    (folder / "file.txt").write_text("one\n")
    gates.git(folder, "add", "--all")
    gates.git(folder, "commit", "--quiet", "--message", "first")
    return folder


def left_over(repository: Path) -> list[str]:
    listed = gates.git(repository, "worktree", "list", "--porcelain").count("worktree ")
    return [*(path.name for path in (repository / ".git" / HOME).glob("*")), *["worktree"] * (listed - 1)]


def test_a_worktree_holds_the_commit_and_not_the_working_tree_and_is_gone_after(repository: Path) -> None:
    (repository / "file.txt").write_text("two\n")
    with worktree(repository, "HEAD") as place:
        assert (place / "file.txt").read_text() == "one\n"
        assert len(left_over(repository)) == 3
    assert left_over(repository) == []
    with pytest.raises(ZeroDivisionError), worktree(repository, "HEAD"):
        raise ZeroDivisionError
    assert left_over(repository) == []
    assert (repository / "file.txt").read_text() == "two\n"
    with pytest.raises(CannotMeasure), worktree(repository, "no-such-commit"):
        pass
    assert left_over(repository) == []


def test_what_a_killed_gate_left_is_removed_by_the_next_and_a_running_gates_is_not(repository: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(gates.ROOT)}
    command = [sys.executable, "-c", KILLED_INSIDE, str(repository)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        place = Path(other.stdout.readline().strip())
        with worktree(repository, "HEAD"):
            assert (place / "file.txt").exists()
        assert (place / "file.txt").exists()
        other.kill()
    assert (place / "file.txt").exists()
    gates.git(repository, "worktree", "lock", str(place))  # as git has it while it makes one
    with worktree(repository, "HEAD"):
        assert not place.exists()
    assert left_over(repository) == []


def test_no_hook_of_the_repository_runs(repository: Path, tmp_path: Path) -> None:
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch '{tmp_path / 'ran'}'\n")
    hook.chmod(0o755)
    with worktree(repository, "HEAD"):
        pass
    assert not (tmp_path / "ran").exists()


def test_a_gate_that_ends_meanwhile_is_none_that_was_abandoned(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Path.glob
    gone = [repository / "another gate's.lock"]
    monkeypatch.setattr(
        Path,
        "glob",
        lambda self, pattern: (
            [*gone, *listed(self, pattern)] if pattern == "*.lock" else listed(self, pattern)
        ),
    )
    with worktree(repository, "HEAD") as place:
        assert place.is_dir()


def test_the_merge_base_is_where_the_branch_left(repository: Path) -> None:
    first = gates.git(repository, "rev-parse", "HEAD")
    gates.git(repository, "checkout", "--quiet", "-b", "change")
    gates.git(repository, "commit", "--quiet", "--allow-empty", "--message", "mine")
    gates.git(repository, "checkout", "--quiet", "main")
    gates.git(repository, "commit", "--quiet", "--allow-empty", "--message", "theirs")
    gates.git(repository, "checkout", "--quiet", "--detach", "change")
    assert merge_base(repository, "main") == first
    assert describe(repository, first).endswith(" first")
    assert not changed(repository)
    (repository / "untracked.py").write_text("")
    assert changed(repository)
    assert describe(repository).endswith(" mine with uncommitted changes")


def test_what_git_cannot_tell_is_said_with_a_remedy(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotMeasure, match="unknown base revision 'origin/main'; fetch it"):
        merge_base(repository, "origin/main")
    with pytest.raises(CannotMeasure, match="unknown base revision '--all'"):
        merge_base(repository, "--all")
    gates.git(repository, "checkout", "--quiet", "--orphan", "other")
    gates.git(repository, "commit", "--quiet", "--message", "unrelated")
    with pytest.raises(CannotMeasure, match="no common commit here; their histories are unrelated"):
        merge_base(repository, "main")
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(CannotMeasure, match="is in no git working tree, so there is no base"):
        top_level(outside)
    gates.git(outside, "init", "--quiet")
    with pytest.raises(CannotMeasure, match="HEAD is no commit yet"):
        merge_base(outside, "main")


def test_a_shallow_clone_is_told_to_fetch(repository: Path, tmp_path: Path) -> None:
    gates.git(repository, "commit", "--quiet", "--allow-empty", "--message", "second")
    gates.git(repository, "branch", "old", "HEAD^")
    gates.git(tmp_path, "clone", "--quiet", "--depth", "1", repository.as_uri(), "clone")
    with pytest.raises(CannotMeasure, match="this clone is shallow: git fetch --unshallow"):
        merge_base(tmp_path / "clone", "HEAD^")
    gates.git(tmp_path / "clone", "fetch", "--quiet", "--depth", "1", "origin", "old:old")
    with pytest.raises(CannotMeasure, match="no common commit here; this clone is shallow"):
        merge_base(tmp_path / "clone", "old")


def test_git_that_is_not_there_is_said(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CannotMeasure, match="git cannot be run"):
        git(repository, "status")


def test_a_git_hooks_environment_is_not_taken_for_ours(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
    assert top_level(repository) == repository
    with worktree(repository, "HEAD") as place:
        assert (place / "file.txt").exists()


def test_the_project_is_the_nearest_folder_with_a_pyproject(repository: Path) -> None:
    deep = repository / "kernels" / "tests"
    deep.mkdir(parents=True)
    assert project(deep, repository) == repository
    (repository / "kernels" / "pyproject.toml").write_text("")
    (repository.parent / "pyproject.toml").write_text("")
    assert project(deep, repository) == repository / "kernels"
    assert project(repository, repository) == repository


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_gate_tidily_and_a_second_one_does_not_interrupt_that(
    number: signal.Signals,
) -> None:
    before, tidied = signal.getsignal(number), []

    def work() -> None:
        with tidy_on_signals():
            try:
                threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
                time.sleep(20)
            finally:
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)
                tidied.append(True)

    with pytest.raises(SystemExit) as ended:
        work()
    assert ended.value.code == 128 + number
    assert tidied
    assert signal.getsignal(number) is before
