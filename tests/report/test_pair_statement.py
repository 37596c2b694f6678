"""A pair whose crossing is not resolved: first where one arm is significantly better, then what is open."""

from __future__ import annotations

import numpy as np

from studies.analysis.crossover import Crossover, crossover
from studies.analysis.curve import Curve
from studies.report.statements import pair_statement

NAMES = {"a": "A", "b": "B"}
X = np.array([64.0, 256.0])


def compared(ratios: tuple[float, float]) -> Crossover:
    level = np.log([0.2, 0.1])
    first = Curve("a", "num_train", X, np.stack([level] * 3), ("0", "1", "2"))
    rows = level + np.log(ratios) + np.array([-0.1, 0.0, 0.1])[:, None]
    return crossover(first, Curve("b", "num_train", X, rows, ("0", "1", "2")))


def test_a_significant_gap_at_one_size_opens_the_answer() -> None:
    text = pair_statement(compared((1.0, 4.0)), NAMES)
    assert text.startswith(
        "With 256 images A is significantly better than B (errors 10.0% against 40.0%); with 64 images the difference "
        "is not significant (paired t-tests, corrected by Holm over 2 sizes). Whether the curves of A and B cross is "
        "not resolved: "
    )


def test_without_one_only_the_crossing_is_told() -> None:
    found = compared((1.0, 1.01))
    assert pair_statement(found, NAMES) == found.sentence(NAMES)
