"""What is to be chosen and what is significantly better are two things, said in one place."""

from __future__ import annotations

import math

import numpy as np
import pytest

from studies.analysis.choice import choose, with_significance
from studies.analysis.curve import Curve
from studies.analysis.paired import paired_tests
from studies.report.answer_tables import choice_cells
from studies.report.statements import choice_statements

NAMES = {"a": "A", "b": "B", "c": "C"}


def curve(family: str, errors: list[float], offsets: list[float]) -> Curve:
    rows = np.log(errors)[None] + np.array(offsets)[:, None]
    return Curve(family, "num_train", np.array([64.0, 256.0]), rows, ("0", "1", "2"))


def told(gap: float) -> tuple[str, str, float]:
    """Statement, verdict and p where the second curve is `gap` above the first at both sizes."""
    curves = {
        "a": curve("a", [0.2, 0.1], [0.0, 0.0, 0.0]),
        "b": curve("b", [0.2 * math.exp(gap), 0.1 * math.exp(gap)], [-0.1, 0.0, 0.1]),
    }
    tests = [paired_tests(curves["b"], curves["a"])]
    choices = with_significance([one for x in (64, 256) if (one := choose(curves, x)) is not None], tests)
    (text,) = choice_statements(choices, NAMES)
    assert choices[0].corrected_p == pytest.approx(tests[0].tests["p_holm"].iloc[0])
    return text, choice_cells(choices[0], NAMES)[2], choices[0].corrected_p


def test_a_probable_choice_that_no_test_separates_says_so() -> None:
    text, verdict, p = told(0.17)
    assert p > 0.05
    assert "A (probability at least" in text
    assert "; not significantly better)" in text
    assert verdict == "choose A, not significant"


def test_a_significant_one_says_so() -> None:
    text, verdict, p = told(1.0)
    assert p < 0.05
    assert "; significantly better)" in text
    assert verdict == "choose A, significant"


def test_a_test_that_finds_the_other_better_leaves_no_significance() -> None:
    """The fourth replicate alone gives `a` the lower mean; in the three that both have, `b` is surely better."""
    rows = np.log([[0.2], [0.2], [0.2], [0.001]])
    a = Curve("a", "num_train", np.array([64.0]), rows, ("0", "1", "2", "3"))
    b = Curve("b", "num_train", np.array([64.0]), np.log([[0.1], [0.101], [0.099]]), ("0", "1", "2"))
    choice = choose({"a": a, "b": b}, 64)
    assert choice is not None
    assert choice.family == "a"
    tests = paired_tests(a, b)
    assert tests.tests["p_holm"].iloc[0] < 0.001
    (known,) = with_significance([choice], [tests])
    assert known.corrected_p == 1.0
    assert known.significance == "not significantly better"


def test_the_worst_of_several_rivals_counts_and_a_missing_test_is_not_known() -> None:
    curves = {
        "a": curve("a", [0.2, 0.1], [0.0, 0.0, 0.0]),
        "b": curve("b", [0.6, 0.3], [-0.1, 0.0, 0.1]),
        "c": curve("c", [0.23, 0.12], [-0.1, 0.0, 0.1]),
    }
    choice = choose(curves, 64)
    assert choice is not None
    tests = [paired_tests(curves["a"], curves[other]) for other in ("b", "c")]
    (known,) = with_significance([choice], tests)
    assert known.corrected_p == pytest.approx(tests[1].tests["p_holm"].iloc[0])
    assert known.significance == "not significantly better than every other"
    (unknown,) = with_significance([choice], tests[:1])
    assert math.isnan(unknown.corrected_p)
    assert unknown.significance == ""
