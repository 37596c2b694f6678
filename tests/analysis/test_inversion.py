"""A confidence set as it is told: interpolation alone tells nothing apart."""

from __future__ import annotations

from studies.analysis.inversion import Stretch, neighbours_around, without_unmeasured_gaps

BELOW, ABOVE = Stretch(64, 133, True, False), Stretch(141, 1024, False, True)


def test_a_gap_between_neighbouring_sizes_is_no_resolved_range() -> None:
    assert without_unmeasured_gaps((BELOW, ABOVE), [64, 256, 1024]) == (Stretch(64, 1024, True, True),)


def test_a_gap_with_a_measured_size_stays() -> None:
    assert without_unmeasured_gaps((BELOW, ABOVE), [64, 137, 256, 1024]) == (BELOW, ABOVE)
    assert without_unmeasured_gaps((), [64]) == ()


def test_a_stretch_without_a_measured_size_names_its_neighbours() -> None:
    inside = Stretch(133, 141, False, False)
    assert neighbours_around(inside, [64, 256, 1024]) == (64, 256)
    assert neighbours_around(inside, [64, 137, 256]) is None
    assert neighbours_around(BELOW, [64, 256]) is None
