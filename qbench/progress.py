"""A line now and then while a long run goes on: how far, how long yet, and the last result."""

from __future__ import annotations

import time
from collections.abc import Callable


class Progress:
    """Counts cases and writes at most one line every `every_s` seconds; a shorter run stays silent."""

    def __init__(
        self,
        total: int,
        write: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
        every_s: float = 10,
    ) -> None:
        self.total = total
        self.count = 0
        self._write = write
        self._now = now
        self._every_s = every_s
        self._start = self._last = now()

    def done(self, case_id: str, text: str) -> None:
        """One more case is done; `text` is its outcome in a word or two, e.g. "12.3 µs"."""
        self.count += 1
        now = self._now()
        if now - self._last < self._every_s:
            return
        self._last = now
        total = max(self.total, self.count)
        elapsed = now - self._start
        left = elapsed / self.count * (total - self.count)
        share = 100 * self.count // total
        ahead = f", about {duration(left, coarse=True)} left" if self.count < total else ""
        self._write(
            f"qbench {self.count}/{total}  {share}%  {duration(elapsed)}{ahead}  last: {case_id} {text}"
        )


def duration(seconds: float, *, coarse: bool = False) -> str:
    """`45s`, `1m20s`, `2h05m`; coarse: an estimate, to the minute from one minute up."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if coarse and whole < 3600:
        whole = 60 * round(whole / 60)
        if whole < 3600:
            return f"{whole // 60}m"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    minutes = round(whole / 60)
    return f"{minutes // 60}h{minutes % 60:02d}m"
