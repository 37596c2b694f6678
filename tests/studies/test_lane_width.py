"""How wide a program should be, on devices whose throughput is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from studies.lane_width import Timing, best_width


def device(
    throughput: Callable[[int], float], memory: float = 0.0, kind: str = "stacked", fits: int = 1 << 20
) -> Callable[[int], Timing | None]:
    """A measurer; `throughput` by width, `memory` share per lane, None beyond `fits` lanes."""
    tried: list[int] = []

    def measure(width: int) -> Timing | None:
        assert width not in tried, "measured twice"
        tried.append(width)
        if width > fits:
            return None
        return Timing(width, throughput(width) / width, memory * width, kind)

    return measure


def test_doubles_until_the_device_is_full() -> None:
    width, timings = best_width(device(lambda lanes: min(lanes, 12.0)))
    assert width == 16  # 8 lanes: 8, 16 lanes: 12, 32 lanes: 12
    assert [one.width for one in timings] == [1, 2, 4, 8, 16, 32]


def test_a_device_that_is_full_with_one_lane_gets_one() -> None:
    assert best_width(device(lambda lanes: 1.0))[0] == 1
    assert best_width(device(lambda lanes: 1.0 + 0.09 * (lanes > 1)))[0] == 1


def test_takes_at_most_the_lanes_allowed() -> None:
    assert best_width(device(float), most=64)[0] == 64
    assert best_width(device(float), most=5)[0] == 4


@pytest.mark.parametrize(("memory", "expected"), [(0.29, 2), (0.31, 1), (0.07, 8), (0.9, 1)])
def test_never_tries_what_would_take_over_60_percent_of_the_memory(memory: float, expected: int) -> None:
    width, timings = best_width(device(float, memory=memory))
    assert width == expected
    assert all(one.memory_share <= 0.6 for one in timings[1:])


@pytest.mark.parametrize(("fits", "expected"), [(0, 1), (1, 1), (4, 4), (7, 4)])
def test_what_runs_out_of_memory_is_not_taken(fits: int, expected: int) -> None:
    assert best_width(device(float, fits=fits))[0] == expected


def test_branches_stay_only_where_they_gain_30_percent() -> None:
    assert best_width(device(lambda lanes: 1 + 0.2 * (lanes > 1), kind="branches"))[0] == 1
    assert best_width(device(lambda lanes: 1 + 0.2 * (lanes > 1)))[0] == 2
    assert best_width(device(lambda lanes: 1 + 0.4 * (lanes > 1), kind="branches"))[0] == 2
