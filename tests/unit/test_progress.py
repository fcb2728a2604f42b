"""Progress lines of long runs."""

from __future__ import annotations

import pytest

from qbench.progress import Progress, duration


def test_progress_writes_at_most_a_line_each_interval() -> None:
    clock = [0.0]
    written: list[str] = []
    progress = Progress(960, written.append, now=lambda: clock[0], every_s=10)
    for count in range(1, 121):
        clock[0] = count * 80 / 120
        progress.done(f"op/p[m={count}]", "12.3 µs")
    assert written[-1] == "qbench 120/960  12%  1m20s, about 9m left  last: op/p[m=120] 12.3 µs"
    assert len(written) == 8


def test_progress_of_a_short_run_is_silent_and_of_a_finished_one_has_no_time_left() -> None:
    clock = [0.0]
    written: list[str] = []
    progress = Progress(2, written.append, now=lambda: clock[0])
    progress.done("a", "1 µs")
    assert written == []
    clock[0] = 30.0
    progress.done("b", "skipped")
    progress.done("c", "one more than announced")
    assert written == ["qbench 2/2  100%  30s  last: b skipped"]


@pytest.mark.parametrize(
    ("seconds", "text", "coarse"),
    [
        (0, "0s", "0s"),
        (59.4, "59s", "59s"),
        (59.6, "1m00s", "1m"),
        (3590, "59m50s", "1h00m"),
        (7499, "2h05m", "2h05m"),
    ],
)
def test_durations_are_short(seconds: float, text: str, coarse: str) -> None:
    assert duration(seconds) == text
    assert duration(seconds, coarse=True) == coarse
