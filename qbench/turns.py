"""One process at a time times on a GPU: sessions that run beside each other on one machine take turns.

Two that time at once slow each other down, by nothing that either could see. The turn is a lock on a file that is named
after the GPU, in the folder for temporary files: it needs no server, and ends with its process, whatever ends that.
Containers that do not share that folder do not see each other, and what does not time through this package asks for no
turn. On a CPU nothing is taken in turns.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
_held: dict[Path, tuple[int, Say]] = {}  # this process's turns: descriptors of locked files


def _silent(line: str) -> None:
    pass


@contextmanager
def turn(device: torch.device, say: Say = _silent) -> Iterator[None]:
    """The device for this process alone, of those that take turns; it may be asked for again within.

    say gets a line where it has to be waited for, and again every half a minute. Where the file cannot be opened,
    nobody waits.
    """
    path = _file(device)
    handle = None if path is None or path in _held else _opened(path)
    if path is None or handle is None:
        yield
        return
    try:
        _take(handle, path, say)
        _held[path] = handle, say
        yield
    finally:
        _held.pop(path, None)
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing alone leaves it to what was forked meanwhile
        os.close(handle)


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Others may have the device meanwhile: for long work of the host's, such as compiling, within a turn."""
    path = _file(device)
    held = None if path is None else _held.pop(path, None)
    if path is None or held is None:
        yield
        return
    handle, say = held
    fcntl.flock(handle, fcntl.LOCK_UN)
    try:
        yield
    finally:
        _take(handle, path, say)
        _held[path] = held


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
    for more in (0, os.O_CREAT):
        try:
            return os.open(path, flags | more, 0o644)
        except FileNotFoundError:
            continue
        except OSError:
            break
    return None


def _take(handle: int, path: Path, say: Say) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        pass
    line = f"qbench waits: another session times on this GPU ({path})"
    taken = threading.Event()

    def remind() -> None:
        while not taken.wait(_REMINDER_S):
            say(line)

    say(line)
    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    finally:
        taken.set()
        reminder.join()
