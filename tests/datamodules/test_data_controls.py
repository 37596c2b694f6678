"""Permutation controls move pixels exactly as far as their scope says, and can be undone."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import DataError, PermutationScope, PixelPermutation

SCOPES = get_args(PermutationScope)


@settings(max_examples=40, deadline=None)
@given(scope=st.sampled_from(SCOPES), patches=st.integers(1, 6), patch=st.integers(1, 5), seed=st.integers(0, 2**40))
def test_every_permutation_can_be_undone(scope: PermutationScope, patches: int, patch: int, seed: int) -> None:
    permutation = PixelPermutation(scope, patches * patch, patch, seed)
    pixels = np.arange((patches * patch) ** 2)
    np.testing.assert_array_equal(pixels[permutation.table()][permutation.inverse_table()], pixels)
    np.testing.assert_array_equal(np.sort(permutation.table()), pixels)


def patch_of(pixel: np.ndarray) -> np.ndarray:
    """Number of the 4x4 patch that a pixel of a 16x16 image lies in."""
    return (pixel // 16 // 4) * 4 + pixel % 16 // 4


def place_in_patch(pixel: np.ndarray) -> np.ndarray:
    return (pixel // 16 % 4) * 4 + pixel % 4


def test_within_patch_shares_one_permutation_and_moves_no_pixel_out() -> None:
    table = PixelPermutation("within_patch", 16, 4, 1).table()
    pixels = np.arange(256)
    np.testing.assert_array_equal(patch_of(table), patch_of(pixels))
    moves = {(int(a), int(b)) for a, b in zip(place_in_patch(pixels), place_in_patch(table), strict=True)}
    assert len(moves) == 16
    assert any(a != b for a, b in moves)


def test_patches_move_whole() -> None:
    table = PixelPermutation("patches", 16, 4, 1).table()
    pixels = np.arange(256)
    np.testing.assert_array_equal(place_in_patch(table), place_in_patch(pixels))
    assert len({(int(a), int(b)) for a, b in zip(patch_of(pixels), patch_of(table), strict=True)}) == 16
    assert not np.array_equal(table, pixels)


def test_pixels_leave_their_patches() -> None:
    table = PixelPermutation("pixels", 16, 4, 1).table()
    assert np.mean(patch_of(table) == patch_of(np.arange(256))) < 0.2


def test_none_is_the_identity() -> None:
    np.testing.assert_array_equal(PixelPermutation("none", 5).table(), np.arange(25))


@pytest.mark.parametrize("scope", SCOPES[1:])
def test_the_seed_decides(scope: PermutationScope) -> None:
    table = PixelPermutation(scope, 16, 4, 0).table()
    np.testing.assert_array_equal(table, PixelPermutation(scope, 16, 4, 0).table())
    assert not np.array_equal(table, PixelPermutation(scope, 16, 4, 1).table())


def test_a_patch_that_does_not_divide_the_image_is_refused() -> None:
    with pytest.raises(DataError, match="patch_size 5 does not divide image_size 16"):
        PixelPermutation("patches", 16, 5)
    PixelPermutation("pixels", 16, 5)  # knows no patches


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(DataError, match="'rows' is unknown; choose one of none, within_patch"):
        PixelPermutation("rows", 16)  # type: ignore[arg-type]
