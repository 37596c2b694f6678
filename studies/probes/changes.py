"""What training changed: the readings of a trained network less those of the same network before."""

from __future__ import annotations

from dataclasses import replace

from .probe import Probed, ProbeError, Reading

_Place = tuple[str, str, int | None, float | None]


def change(trained: Probed, initial: Probed) -> Probed:
    """Every reading of the trained network minus that of the initial one, as quantity `<quantity>_change`.

    Args:
        trained: what a probe found.
        initial: what the same probe found, with the same settings, on the network that the training began from.

    Raises:
        ProbeError: the two were not read at the same places: they are not one network before and after.
    """
    before = {_place(reading): reading for reading in initial.readings}
    after = {_place(reading): reading for reading in trained.readings}
    if unmatched := sorted(map(str, before.keys() ^ after.keys())):
        raise ProbeError(
            f"readings of two networks do not fit each other, the first unmatched is {unmatched[0]} (quantity, layer, "
            "head, setting): expected the same architecture, probed in the same way"
        )
    return Probed(
        tuple(
            replace(reading, quantity=f"{reading.quantity}_change", value=reading.value - before[place].value)
            for place, reading in after.items()
        )
    )


def _place(reading: Reading) -> _Place:
    return reading.quantity, reading.layer, reading.head, reading.setting
