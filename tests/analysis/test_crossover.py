"""What the sentence of a crossover may name."""

from __future__ import annotations

import numpy as np
import pytest

from studies.analysis.crossover import corrected, crossover
from studies.analysis.curve import Curve

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


def test_all_claims_of_undeclared_pairs_are_corrected() -> None:
    one = crossover(*pair(np.array([-0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.4])))
    twice = corrected([one, one])
    for field in ("p_crosses", "p_corrected", "p_none"):
        assert getattr(twice[0], field) == pytest.approx(min(1.0, 2 * getattr(one, field)))


def test_a_claim_that_rests_on_one_size_says_so() -> None:
    """One size of seven barely on the other side: the rule calls it a crossing, and the sentence says how surely."""
    gap = np.array([0.045, 0.045, 0.045, 0.045, 0.045, 0.045, -0.045])
    found = crossover(*pair(gap, noise=0.02))
    assert found.decision == "crosses"
    assert found.p_crosses <= 0.05 < found.p_corrected
    assert "Corrected over the 7 sizes" in found.sentence()
    strong = crossover(*pair(10 * gap, noise=0.02))
    assert "Corrected" not in strong.sentence()
