"""What the sentence of a crossover may name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from studies.analysis.answers import analyse
from studies.analysis.crossover import corrected, crossover
from studies.analysis.curve import Curve
from studies.analysis.inversion import Stretch
from studies.analysis.table import Columns, CurveTable

SIZES = 2.0 ** np.arange(6, 13)


def pair(gap: np.ndarray, noise: float = 0.02, replicates: int = 5) -> tuple[Curve, Curve]:
    """Two curves whose mean log errors differ by exactly `gap`, with the same spread at every size."""
    spread = np.linspace(-1, 1, replicates)[:, None] * noise
    base = -0.3 * np.log(SIZES)
    names = tuple(map(str, range(replicates)))
    first = Curve("resnet", "num_train", SIZES, base + gap + spread, names)
    return first, Curve("vit", "num_train", SIZES, base - spread, names)


def test_a_root_amid_noise_is_in_the_list_and_not_in_the_sentence() -> None:
    # Significant below at 64 and 128 and above from 1,024 on; the wiggle in between is far inside the noise.
    found = crossover(*pair(np.array([-0.3, -0.2, -0.001, 0.001, 0.2, 0.3, 0.4])), interpolation="linear")
    assert found.decision == "crosses"
    assert len(found.roots) == len(found.resolved_roots) == 1
    wiggly = crossover(*pair(np.array([-0.001, 0.001, -0.3, -0.2, 0.2, 0.3, 0.4])), interpolation="linear")
    assert len(wiggly.roots) == 3
    (named,) = wiggly.resolved_roots
    assert 512 < named.x < 1024
    assert wiggly.sentence().count("overtakes") == 1


def test_two_resolved_roots_are_both_named() -> None:
    found = crossover(*pair(np.array([-0.3, -0.3, 0.3, 0.3, 0.3, -0.3, -0.3])), interpolation="linear")
    assert [root.better_above for root in found.resolved_roots] == ["vit", "resnet"]
    assert found.sentence().count("overtakes") == 2


def test_both_claims_of_undeclared_pairs_are_corrected_together() -> None:
    crosses = crossover(*pair(np.array([-0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.4])))
    apart = crossover(*pair(np.full(7, -0.05), noise=0.015))
    assert (crosses.decision, apart.decision) == ("crosses", "none below x_max")
    both = corrected([crosses, apart])
    claims = [crosses.p_crosses, apart.p_crosses, crosses.p_none, apart.p_none]
    assert [one.p_crosses for one in both] + [one.p_none for one in both] == pytest.approx(by_hand(claims))
    claims[:2] = [crosses.p_corrected, apart.p_corrected]
    assert [one.p_corrected for one in both] == pytest.approx(by_hand(claims)[:2]), "of one family, over all x or not"


def by_hand(p_values: list[float]) -> list[float]:
    """Holm (1979), one p at a time."""
    ranked = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(ranked):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def test_a_claim_lost_to_the_correction_is_told_as_such() -> None:
    """All sizes are significant by themselves; nothing is missing; the correction over pairs is what is in the way."""
    apart = crossover(*pair(np.full(7, -0.05), noise=0.022))
    assert apart.decision == "none below x_max"
    many = corrected([apart] * 12)
    assert many[0].decision == "not resolved"
    assert "not after correction over 12 pairs" in many[0].sentence()
    assert "missing" not in many[0].sentence()


def test_a_missing_cell_costs_no_size_of_the_tests() -> None:
    first, second = pair(np.array([-0.3, -0.2, -0.1, 0.0, 0.2, 0.3, 0.4]))
    log_error = first.log_error.copy()
    log_error[3, -1] = np.nan
    found = crossover(replace(first, log_error=log_error), second)
    assert found.decision == "crosses"
    assert list(found.tests.tests["num_pairs"]) == [5, 5, 5, 5, 5, 5, 4]


def test_budgets_that_are_equal_within_two_percent_are_one_place() -> None:
    first, second = pair(np.array([-0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.4]))
    near = replace(second, x=second.x * 1.01, column="train_flops")
    tests = crossover(replace(first, column="train_flops"), near).tests.tests
    assert len(tests) == len(SIZES)
    assert tests["measured"].all()


def test_budgets_that_are_equal_within_two_percent_are_one_choice() -> None:
    first, second = pair(np.array([-0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.4]))
    curves = {"resnet": first, "vit": replace(second, x=second.x * 1.01)}
    answers = analyse(CurveTable(Columns(), curves, (), ()))
    assert len(answers.choices) == len(SIZES)
    assert all(choice.runner_up is not None for choice in answers.choices)


def test_the_correction_over_sizes_is_that_of_simes_on_either_side() -> None:
    one = crossover(*pair(np.array([-0.03, -0.02, -0.025, 0.0, 0.02, 0.03, 0.028]), noise=0.02))
    tests = one.tests.tests
    sides = []
    for sign in (-1, 1):
        one_sided = sorted(
            stats.t.sf(sign * d / se, 4) for d, se in zip(tests["difference"], tests["standard_error"], strict=True)
        )
        sides.append(min(len(one_sided) * p / (rank + 1) for rank, p in enumerate(one_sided)))
    assert one.p_corrected == pytest.approx(max(sides))
    mirrored = crossover(*reversed(pair(np.array([-0.03, -0.02, -0.025, 0.0, 0.02, 0.03, 0.028]), noise=0.02)))
    assert mirrored.p_corrected == pytest.approx(one.p_corrected)


def test_the_set_holds_the_root_where_there_is_no_spread_at_all() -> None:
    found = crossover(*pair(np.array([-0.3, -0.2, -0.1, 0.07, 0.2, 0.3, 0.4]), noise=0.0), interpolation="monotone")
    (root,) = found.roots
    assert found.confidence_set is not None
    assert [part.low <= root.x <= part.high for part in found.confidence_set] == [True]


def test_a_claim_that_rests_on_one_size_says_so() -> None:
    """One size of seven barely on the other side: the rule calls it a crossing, and the sentence says how surely."""
    gap = np.array([0.045, 0.045, 0.045, 0.045, 0.045, 0.045, -0.045])
    found = crossover(*pair(gap, noise=0.02))
    assert found.decision == "crosses"
    assert found.p_crosses <= 0.05 < found.p_corrected
    assert "After correction over the 7 sizes this crossing is not significant" in found.sentence()
    told = corrected([found, crossover(*pair(np.full(7, -0.05), noise=0.001))])[0]
    said = replace(told, decision="crosses").sentence()
    over = "over the 7 sizes and both claims of 2 pairs"
    assert f"{over} this crossing is not significant (p = {told.p_corrected:.2f})" in said
    strong = crossover(*pair(10 * gap, noise=0.02))
    assert "correction" not in strong.sentence()


def test_a_gap_of_the_set_in_which_nothing_was_measured_is_not_told() -> None:
    """Interpolation alone tells the curves apart from 300 to 350; between the other stretches, 512 was measured."""
    found = crossover(*pair(np.array([-0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.4])))
    parts = tuple(Stretch(low, high, False, False) for low, high in ((280.0, 300.0), (350.0, 400.0), (600.0, 700.0)))
    gap, gaps = replace(found, confidence_set=parts[:2]), replace(found, confidence_set=parts)
    assert gap.told_set == (Stretch(280.0, 400.0, False, False),)
    assert gaps.told_set == (Stretch(280.0, 400.0, False, False), parts[2])
    assert "95% interval 280 to 400 (" in gap.sentence()
    assert "95% confidence set 280 to 400, and 600 to 700 (" in gaps.sentence()
