"""How numbers are written for people."""

from __future__ import annotations

import math

import pytest

from studies.analysis.quantity import quantity


@pytest.mark.parametrize(
    ("column", "x", "text"),
    [
        ("num_train", 2849.39, "2,849 images"),
        ("num_train", 88.72, "88.7 images"),
        ("train_size", 1024.0, "1,024 images"),
        ("train_flops", 3.3599e10, "33.6G training FLOPs"),
        ("train_flops", 999_999.0, "1M training FLOPs"),
        ("train_flops", 1.341e11, "134G training FLOPs"),
        ("num_parameters", 95_000, "95k parameters"),
        ("train_seconds", 7.25, "7.25 seconds of training"),
        ("width", 0.125, "0.125 (width)"),
        ("num_train", math.inf, "unlimited images"),
        ("num_train", math.nan, "unknown images"),
    ],
)
def test_values_are_written_with_their_unit(column: str, x: float, text: str) -> None:
    assert quantity(column).value(x) == text
