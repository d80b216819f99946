from __future__ import annotations

import pytest

from safe_llm.testing import FakeClock
from safe_llm.types import Clock


def test_it_stands_still_until_it_is_moved() -> None:
    clock: Clock = FakeClock(start=100.0)
    assert (clock.time(), clock.time(), clock.monotonic()) == (100.0, 100.0, 0.0)


def test_advancing_moves_both_clocks() -> None:
    clock = FakeClock(start=100.0)
    clock.advance(2.5)
    clock.advance(0)
    assert (clock.time(), clock.monotonic()) == (102.5, 2.5)


def test_setting_moves_the_wall_clock_alone_and_also_back() -> None:
    clock = FakeClock()
    clock.advance(5)
    clock.set(50.0)
    assert (clock.time(), clock.monotonic()) == (50.0, 5.0)


def test_time_does_not_pass_backwards() -> None:
    with pytest.raises(ValueError, match="set"):
        FakeClock().advance(-1)
