"""Waiting for the clock, with a card that does what it is told."""

import pytest
import torch

from qbench.clocks import Monitor


class Card:
    """An NVML that answers from a list of (clock, mask of reasons); the last stays."""

    NVML_CLOCK_SM = 1

    def __init__(self, readings, top=1980):
        self.readings, self.top, self.asked = list(readings), top, 0

    def nvmlDeviceGetClockInfo(self, handle, kind):
        self.asked += 1
        if len(self.readings) > 1:
            self.readings.pop(0)
        return self.readings[0][0]

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):
        return self.top

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self.readings[0][1]


@pytest.fixture
def monitor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    made = Monitor()

    def holding(readings):
        made._nvml = Card([(0, 0), *readings])
        return made

    return holding


def test_without_nvml_nothing_is_read_and_nothing_waited_for():
    monitor = Monitor()
    monitor._nvml = None
    assert (monitor.clock_mhz(), monitor.throttle_reasons(), monitor.recover()) == (0, (), 0.0)


def test_a_recovered_clock_is_not_waited_for(monitor):
    card = monitor([(1980, 0)])
    assert card.recover() < 0.1
    assert card._nvml.asked == 1


def test_a_throttled_card_is_waited_for_until_clock_and_reasons_are_back(monitor):
    card = monitor([(1530, 0x4), (1700, 0x4), (1980, 0x4), (1980, 0)])
    assert card.recover() < 0.5
    assert card._nvml.asked == 4


def test_idle_is_no_throttling_and_its_reasons_have_names(monitor):
    assert monitor([(345, 0x1)]).recover(0.02) == 0.02
    card = monitor([(1530, 0x4 | 0x20)])
    card.clock_mhz()
    assert card.throttle_reasons() == ("power-cap", "sw-thermal")


def test_one_wait_in_vain_does_not_lower_what_is_waited_for(monitor):
    card = monitor([(1200, 0)])
    assert card.recover(0.02) == 0.02
    assert monitor([(1530, 0)]).recover(0.02) == 0.02


def test_a_card_locked_below_its_maximum_is_recognised_after_three_waits(monitor):
    card = monitor([(1410, 0)])
    assert [card.recover(0.02) for _ in range(3)] == [0.02] * 3
    assert card.recover(0.02) < 0.02
