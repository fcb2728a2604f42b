"""One process at a time times on a GPU: sessions that run beside each other on one machine take turns.

Two that time at once slow each other down, by nothing that either could see, and so does one that works while another
times: what is built and compiled for a whole model uses the GPU, too (torch.compile tries its kernels out). So work
that is not timed is shared, and a turn begins when nobody works: a lock on a file that is named after the GPU, in the
folder for temporary files, held by all who work or by the one who times. It needs no server, and ends with its
process, whatever ends that. A second file is the queue: who waits for a turn holds it, so that those who would work
next, too, wait until that turn is over; else a turn might never come.

Containers that do not share that folder do not see each other, and what does not measure through this package asks for
nothing. On a CPU nothing is taken in turns.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # not on this platform
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import torch

Say = Callable[[str], None]
_REMINDER_S = 30  # less than what a process waits for that looks after another (gate/side.py)
_held: dict[Path, bool] = {}  # files this process has locked, and whether for a turn


def _silent(line: str) -> None:
    pass


@contextmanager
def turn(device: torch.device, say: Say = _silent) -> Iterator[None]:
    """The device for this process alone, of those that ask; it may be asked for again within.

    say gets a line where it has to be waited for, and again every half a minute. Where the file cannot be opened,
    nobody waits. RuntimeError within `sharing`: two who work and ask for a turn would wait for each other.
    """
    with _lock(device, say, alone=True):
        yield


@contextmanager
def sharing(device: torch.device, say: Say = _silent) -> Iterator[None]:
    """Work on the device that is not timed: others may work beside it, and nobody has a turn. Within a turn, that."""
    with _lock(device, say, alone=False):
        yield


@contextmanager
def _lock(device: torch.device, say: Say, *, alone: bool) -> Iterator[None]:
    path = _file(device)
    held = None if path is None else _held.get(path)
    if alone and held is False:
        raise RuntimeError(
            "a turn was asked for within shared work, which it would wait for; end `sharing` before"
        )
    handle = None if path is None or held is not None else _opened(path)
    if path is None or handle is None:
        yield
        return
    try:
        _take(handle, path, say, alone)
        _held[path] = alone
        yield
    finally:
        _held.pop(path, None)
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing alone leaves it to what was forked meanwhile
        os.close(handle)


def _file(device: torch.device) -> Path | None:
    """Of a GPU, by the name it has in every process, whatever its number is there."""
    if device.type != "cuda" or fcntl is None:
        return None
    import torch

    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return Path(tempfile.gettempdir(), f"qbench-gpu-{uuid}.lock") if uuid else None


def _opened(path: Path) -> int | None:
    """A descriptor of the file, made if it is not there. Another user's can be read, which is enough to lock it."""
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    for _ in range(2):
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            with suppress(OSError):  # another process was first, or it cannot be made
                handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
                os.fchmod(handle, 0o644)  # whatever this process's umask
                return handle
        except OSError:
            break
    return None


def _take(handle: int, path: Path, say: Say, alone: bool) -> None:
    """Lock the file, alone or shared, behind those who wait already."""
    queue = _opened(path.with_suffix(".queue"))
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    steps = [(handle, kind)] if queue is None else [(queue, fcntl.LOCK_EX), (handle, kind)]
    try:
        for each, how in steps:
            fcntl.flock(each, how | fcntl.LOCK_NB)
    except BlockingIOError:
        with _saying(f"qbench waits: another session uses this GPU ({path})", say):
            for each, how in steps:  # what is locked already stays so
                fcntl.flock(each, how)
    finally:
        if queue is not None:
            fcntl.flock(queue, fcntl.LOCK_UN)
            os.close(queue)


@contextmanager
def _saying(line: str, say: Say) -> Iterator[None]:
    """Said at once and again and again."""
    over = threading.Event()

    def remind() -> None:
        while not over.wait(_REMINDER_S):
            say(line)

    say(line)
    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
    finally:
        over.set()
        reminder.join()
