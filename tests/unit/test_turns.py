"""Processes that time on one GPU take turns: who times, who works meanwhile, who waits, and what is said of it."""

import fcntl
import os
import subprocess
import sys
import time

import pytest
import torch

import qbench
from qbench import turns
from qbench.measure import Bench
from qbench.timing import TimingPolicy

GPU = torch.device("cuda", 0)
HERE = os.path.dirname(turns.__file__)
ELSEWHERE = """
import sys
from pathlib import Path
from types import SimpleNamespace
sys.path.append(sys.argv[2])  # the module alone: importing torch takes seconds
import turns
turns._file = lambda device: Path(sys.argv[1])
GPU = SimpleNamespace(type="cuda")
with turns.{kind}(GPU):
    print("mine", flush=True)
    sys.stdin.readline()
    {end}
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The lock of every device here, a CPU's too, so that what asks for turns can be seen without a GPU."""
    path = tmp_path / "gpu.lock"
    monkeypatch.setattr(turns, "_file", lambda device: path)
    return path


def free(path, kind=fcntl.LOCK_EX):
    """Could another process have its turn now?"""
    handle = os.open(path, os.O_RDONLY | os.O_CREAT)
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def shared(path):
    """Could another process work, but not have its turn?"""
    return free(path, fcntl.LOCK_SH) and not free(path)


@pytest.fixture
def elsewhere(path):
    """Starts another process that has its turn, or shares it, and ends as it is told when a line comes."""
    started = []

    def start(end="pass", kind="turn"):
        command = [sys.executable, "-c", ELSEWHERE.format(end=end, kind=kind), str(path), HERE]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "mine\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_turn_keeps_others_out_also_when_it_is_asked_for_again_and_ends_with_its_block(path):
    with turns.turn(GPU):
        with turns.turn(GPU):
            assert not free(path)
        assert not free(path), "the inner block does not end the outer one's turn"
    assert free(path)
    with pytest.raises(ZeroDivisionError), turns.turn(GPU):
        _ = 1 / 0
    assert free(path)


def test_work_is_shared_within_a_turn_it_is_part_of_that_and_no_turn_is_within_work(path):
    with turns.sharing(GPU):
        with turns.sharing(GPU):
            assert shared(path)
        assert shared(path), "the inner block does not end the outer one's share"
        with pytest.raises(RuntimeError, match="end `sharing` before"), turns.turn(GPU):
            pass
        assert shared(path)
    assert free(path)
    with turns.turn(GPU):
        with turns.sharing(GPU):
            assert not free(path, fcntl.LOCK_SH)
        assert not free(path, fcntl.LOCK_SH)
    with pytest.raises(ZeroDivisionError), turns.sharing(GPU):
        _ = 1 / 0
    assert free(path) and not turns._held


def test_a_turn_waits_for_work_elsewhere(path, elsewhere):
    process, said = elsewhere(kind="sharing"), []

    def say(line):
        said.append(line)
        assert not turns._held and not free(path.with_suffix(".queue"), fcntl.LOCK_SH)
        process.stdin.write("go on\n")
        process.stdin.flush()

    with turns.turn(GPU, say):
        assert said and process.wait() == 0


def test_who_would_work_waits_behind_those_who_wait_for_a_turn(path, elsewhere):
    """Or a turn might never come."""
    working, order = elsewhere(kind="sharing"), path.parent / "order"
    waiting = subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE.format(kind="turn", end="pass"), str(path), HERE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        queue, deadline = path.with_suffix(".queue"), time.monotonic() + 60
        while free(queue):
            assert waiting.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        assert shared(path), "there would be room for more work"

        def say(line):
            order.write_text("waited")
            working.stdin.write("go on\n")
            working.stdin.flush()
            assert waiting.stdout.readline() == "mine\n"
            waiting.stdin.write("go on\n")
            waiting.stdin.flush()

        with turns.sharing(GPU, say):
            assert order.exists() and shared(path)
    finally:
        waiting.kill()
        waiting.communicate()


def test_two_who_worked_beside_each_other_have_their_turns_one_after_the_other(path):
    log = path.parent / "log"
    turn = f"""
import time
with turns.turn(GPU):
    for word in ("begin", "end"):
        with open({str(log)!r}, "a") as file:
            print(word, file=file)
        time.sleep(0.2)
"""
    command = [sys.executable, "-c", ELSEWHERE.format(kind="sharing", end="pass") + turn, str(path), HERE]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for process in started:
            assert process.stdout.readline() == "mine\n", "both work at once"
        for process in started:
            process.stdin.write("go on\n")
            process.stdin.flush()
        for process in started:
            process.communicate(timeout=60)
        assert [process.returncode for process in started] == [0, 0]
        assert log.read_text().split() == ["begin", "end"] * 2
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("end", ["pass", "import os; os._exit(3)", "import os; os.kill(os.getpid(), 9)"])
def test_another_process_is_waited_for_however_it_ends_and_one_line_says_so(end, path, elsewhere):
    process, said = elsewhere(end), []

    def say(line):
        said.append(line)
        process.stdin.write("go on\n")
        process.stdin.flush()

    with turns.turn(GPU, say):
        assert said == [f"qbench waits: another session uses this GPU ({path})"]
        assert not free(path)


def test_what_was_forked_within_a_turn_does_not_keep_it(path):
    with turns.turn(GPU):
        child = os.fork()
        if child == 0:
            time.sleep(20)
            os._exit(0)
    try:
        assert free(path)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_who_waits_long_says_so_again(path, elsewhere, monkeypatch):
    monkeypatch.setattr(turns, "_REMINDER_S", 0.05)
    process, said = elsewhere(), []

    def say(line):
        said.append(line)
        if len(said) == 3:
            process.stdin.write("go on\n")
            process.stdin.flush()

    with turns.turn(GPU, say):
        assert len(said) >= 3 and len(set(said)) == 1


def test_nothing_is_said_or_waited_for_on_a_cpu_or_where_the_file_cannot_be_opened(tmp_path, monkeypatch):
    assert turns._file(torch.device("cpu")) is None
    monkeypatch.setattr(turns, "_file", lambda device: tmp_path / "not there" / "gpu.lock")
    with turns.sharing(GPU, pytest.fail), turns.turn(GPU, pytest.fail):
        pass
    target = tmp_path / "somebody's"
    target.write_text("theirs")
    (tmp_path / "link.lock").symlink_to(target)
    monkeypatch.setattr(turns, "_file", lambda device: tmp_path / "link.lock")
    with turns.turn(GPU, pytest.fail):
        assert free(target), "a link is not followed"


def test_other_users_can_open_the_file_whatever_the_umask(path):
    before = os.umask(0o077)
    try:
        with turns.turn(GPU):
            modes = [each.stat().st_mode & 0o777 for each in (path, path.with_suffix(".queue"))]
    finally:
        os.umask(before)
    assert modes == [0o644, 0o644]


@pytest.mark.gpu
def test_the_file_is_named_after_the_gpu():
    index = torch.cuda.current_device()
    assert str(torch.cuda.get_device_properties(index).uuid) in turns._file(torch.device("cuda", index)).name


def state(path):
    return "free" if free(path) else "shared" if shared(path) else "turn"


def test_timing_is_a_turn_checking_alone_is_shared(path):
    seen = []

    def provider(x):
        seen.append(state(path))
        return lambda: 2 * x

    op = qbench.Op(
        "double",
        inputs=lambda w, device: (torch.arange(4.0),),
        reference=lambda x: 2 * x,
        tolerance=qbench.exact,
        cost=lambda w: qbench.Cost(32),
    )
    case = qbench.Case(op, provider, qbench.Workload.of(m=4))
    bench = Bench(TimingPolicy(), torch.device("cpu"), None)
    bench.check(case)
    bench.measure(case)
    assert seen == ["shared", "turn"]
    bench.ceilings()
    assert state(path) == "free"


def test_what_is_profiled_is_built_in_a_share_and_called_in_a_turn(path):
    seen = []

    def provider(x):
        seen.append(state(path))
        return lambda: (seen.append(state(path)), 2 * x)[1]

    op = qbench.Op(
        "double", lambda w, d: (torch.arange(4.0),), lambda x: 2 * x, qbench.exact, lambda w: qbench.Cost(32)
    )
    case = qbench.Case(op, provider, qbench.Workload.of(m=4))
    Bench(TimingPolicy(), torch.device("cpu"), None).profile(case)
    assert seen == ["shared", "shared", "turn"] and state(path) == "free"
