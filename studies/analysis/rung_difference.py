"""Which of two architectures loses more where pixels are permuted: the difference of differences at every rung."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .finding import Names, name_of
from .interaction import DifferenceOfDifferences, difference_of_differences
from .paired import holm
from .quantity import quantity
from .rungs import REFERENCE, SCOPES, curve_of, factor_text, on_images, values_text
from .table import CurveTable


@dataclass(frozen=True, kw_only=True)
class RungDifference(DifferenceOfDifferences):
    """D(x) at one rung: how much more it costs the second arm than the first; below 0 where it costs the first more.

    Attributes:
        tests: as of `DifferenceOfDifferences`, and `near_chance`: one of the four errors has little room left to rise.
            The factor of such an arm is smaller than what it lost, so that factors are no measure of who lost more:
            nothing is claimed there, and `p_holm` is NaN.
        rung: the permutation that `permuted` in `tests` stands for.
        num_tests: the family of hypotheses that `p_holm` is corrected over: one at every rung and x of the pair that
            has a test, those of which nothing is claimed among them.
        lacking: arms of the pair and rungs that nothing was measured at, for want of which `tests` is empty.
    """

    rung: str
    lacking: tuple[tuple[str, str], ...] = ()

    @property
    def is_significant(self) -> bool:
        """Whether anything is claimed at any x."""
        return bool((self.tests["p_holm"] <= 1 - self.confidence).any())

    def sentence(self, names: Names | None = None) -> str:
        """Whose errors the permutation multiplies more, and by how much more."""
        first, second, of = name_of(self.first, names), name_of(self.second, names), quantity(self.column)
        where = SCOPES[self.rung]
        if self.tests.empty:
            return f"With {where}, {first} and {second} cannot be compared: {self._why_empty(names)}."
        at_chance = self.tests["near_chance"].astype(bool)
        untested = ~at_chance & self.tests["p_value"].isna()
        if untested.all():
            return f"With {where}, {first} and {second}: without replicates the two changes cannot be compared."
        untold = []
        if at_chance.any():
            untold.append(f"not told: at chance at {values_text(of, self.tests.loc[at_chance, 'x'])}")
        if untested.any():
            untold.append(f"not tested for want of common replicates: {values_text(of, self.tests.loc[untested, 'x'])}")
        if (at_chance | untested).all():
            return f"With {where}, which of {first} and {second} loses more is {'; '.join(untold)}."
        claims = self._claims(first, second)
        told = f"{'; '.join(claims)} (ratio of the factors; paired t, Holm over {self.num_tests})"
        if not claims:
            told = f"that the errors of {first} and {second} change by other factors is significant at no size (Holm " \
                f"over {self.num_tests})"  # fmt: skip
        return f"With {where}, {'; '.join([told, *untold])}."

    def _claims(self, first: str, second: str) -> list[str]:
        """Whose errors are significantly multiplied by more, and where."""
        of = quantity(self.column)
        surely = self.tests[self.tests["p_holm"] <= 1 - self.confidence]
        parts = []
        for more, less, sign in ((first, second, -1), (second, first, 1)):
            rows = surely[np.sign(surely["difference"]) == sign]
            if rows.empty:
                continue
            at = ", ".join(
                f"{factor_text(sign * row['difference'], *sorted((sign * row['low'], sign * row['high'])))} at "
                f"{of.value(row['x'])}"
                for row in rows.to_dict("records")
            )
            parts.append(f"the errors of {more} are multiplied by more than those of {less}: {at}")
        return parts

    def _why_empty(self, names: Names | None) -> str:
        absent = [f"{name_of(arm, names)} {on_images(rung)}" for arm, rung in self.lacking]
        if absent:
            return f"no finished cell of {' and '.join(absent)}"
        return "no replicate of any size has both arms with and without the permutation"


def rung_differences(
    pair: tuple[str, str], tables: Mapping[str, CurveTable], column: str, errors: pd.DataFrame, confidence: float
) -> tuple[RungDifference, ...]:
    """The difference of differences at every rung, corrected over all rungs and x; none is claimed at chance."""
    made = {
        rung: difference_of_differences(
            *(curve_of(arm, tables[of], column) for of in (REFERENCE, rung) for arm in pair), confidence=confidence
        )
        for rung in tables
        if rung != REFERENCE
    }
    full = errors[errors["near_chance"]]
    at_chance = set(zip(full["arm"], full["rung"], full["x"], strict=True))
    p_values = np.concatenate([one.tests["p_value"].to_numpy(float) for one in made.values()])
    corrected = np.split(holm(p_values), np.cumsum([len(one.tests) for one in made.values()])[:-1])
    found = []
    for (rung, one), p_holm in zip(made.items(), corrected, strict=True):
        errors_of = [(arm, of) for of in (REFERENCE, rung) for arm in pair]
        full_at = [any((*of, x) in at_chance for of in errors_of) for x in one.tests["x"]]
        near_chance = np.array(full_at, dtype=bool)
        values = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
        values["num_tests"] = int(np.sum(~np.isnan(p_values)))
        values["tests"] = one.tests.assign(p_holm=np.where(near_chance, np.nan, p_holm), near_chance=near_chance)
        lacking = tuple((arm, of) for arm, of in errors_of if arm not in tables[of].curves)
        found.append(RungDifference(**values, rung=rung, lacking=lacking))
    return tuple(found)
