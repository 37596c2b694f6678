"""Notes: what a reader must know of a plan is said where it is true, and only there."""

from __future__ import annotations

from planned import COLOURED, planned

from datamodules import parse_data


def test_branches_that_do_not_see_every_image_are_remarked() -> None:
    note = next(note for note in planned(num_train=(64, 640)).notes if "of the N images was seen once" in note)
    # 640 images are 20 batches of 32: the branches of 10 and 20 steps; the second sees each exactly once
    assert note.endswith(": 0.125 C at N=640.")
    assert not any("was seen once" in note for note in planned(num_train=(64, 320)).notes)


def test_overlapping_subsets_of_a_shared_pool_are_remarked_and_fresh_ones_are_not() -> None:
    shared = parse_data(COLOURED)
    assert any("more than half the pool of 1900" in note for note in planned(data=shared, num_train=(951,)).notes)
    assert not any("half the pool" in note for note in planned(data=shared, num_train=(950,)).notes)
    assert not any("half the pool" in note for note in planned(num_train=(1_900,)).notes)
