"""The watchdog is wound up as often as it must be, for as long as it may run, and never left behind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from studies import stall
from studies.stall import STANDARD_ERROR, progressed, watched


class _Clock:
    """A clock that a test turns, and what Python's watchdog was told."""

    def __init__(self) -> None:
        self.now, self.told = 100.0, list[tuple[str, float]]()

    def monotonic(self) -> float:
        return self.now

    def dump_traceback_later(self, seconds: float, *, exit: bool, file: int) -> None:
        assert exit, "who hangs is only written about"
        assert file == STANDARD_ERROR
        self.told.append(("granted", seconds))

    def cancel_dump_traceback_later(self) -> None:
        self.told.append(("called off", 0.0))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr(stall, "time", SimpleNamespace(monotonic=made.monotonic))
    monkeypatch.setattr(stall, "faulthandler", made)
    return made


def test_a_job_is_watched_from_its_beginning_to_its_end(clock: _Clock) -> None:
    with watched(1800.0):
        assert clock.told == [("granted", 1800.0)]
    assert clock.told[1:] == [("called off", 0.0)]
    clock.now += 1e6
    progressed()
    assert len(clock.told) == 2, "wound up after the end of the job"


def test_a_step_is_granted_its_own_time(clock: _Clock) -> None:
    with watched(10.0, step_flops=2.5e9):
        clock.now += 2.0
        progressed()
    assert clock.told[:2] == [("granted", 12.5)] * 2


def test_the_watchdog_is_called_off_after_an_error_too(clock: _Clock) -> None:
    with pytest.raises(ZeroDivisionError), watched(10.0):
        raise ZeroDivisionError
    assert clock.told[-1] == ("called off", 0.0)


def test_nobody_is_watched_where_a_job_may_take_for_ever(clock: _Clock) -> None:
    with watched(None, step_flops=2.5e9):
        clock.now += 1e6
        progressed()
        assert clock.told == []


@pytest.mark.parametrize(("granted", "seldom"), [(1800.0, 1.0), (0.4, 0.1)])
def test_signs_of_progress_wind_it_up_again_but_not_each(clock: _Clock, granted: float, seldom: float) -> None:
    """Once a second; more often where so little is granted that it would run down between two."""
    with watched(granted):
        clock.now += 0.9 * seldom
        progressed()
        assert len(clock.told) == 1
        clock.now += 0.2 * seldom
        progressed()
        progressed()
        assert clock.told == [("granted", granted)] * 2
        clock.now += 1.1 * seldom
        progressed()
        assert len(clock.told) == 3
