"""The ladder of permutations: what an architecture loses with each part of the structure of images (PROTOCOL 9).

Every arm is trained again on images whose pixels are permuted, in the same way in all of them, at three scopes: within
patches, whole patches, all pixels. What is lost is the change of the log error against the same arm on images as they
are, paired by replicate. A network is indifferent to a permutation that its first layer can undo: a fully connected one
to all three, a ViT with learned positions and an MLP-Mixer to the first two, a convolutional one to none. Two arms are
compared by the difference of their changes, which is the difference of differences of `studies.analysis.interaction`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd

from studies.protocol import Permutation

from .finding import Finding, LeftOut, plain
from .fit_points import NEAR_CHANCE
from .jackknife import t_quantile
from .of_records import BRANCH_COLUMNS, Rule, curve_points, records_table
from .permutation_change import PermutationChange, permutation_change
from .quantity import quantity
from .rung_difference import RungDifference, rung_differences
from .rungs import REFERENCE, on_images, values_text
from .table import CurveTable


@dataclass(frozen=True)
class Ladder:
    """What every arm loses at every rung.

    Attributes:
        rungs: above the unpermuted one, from the mildest.
        column: name of x.
        confidence: nominal coverage of the intervals.
        errors: a row per arm, rung and x: `arm`, `rung` (with `none`), `x`, `num_replicates`, arithmetic `mean` error
            and `half_width` of its t-interval (NaN with one replicate), and `near_chance`.
        changes: of every arm that was measured at all; without tests where images as they are are missing.
        differences: of the declared pair, one per rung; empty where no pair is declared.
        left_out: arms, rungs and x that nothing was measured at, or no replicate as on images as they are.
    """

    rungs: tuple[str, ...]
    column: str
    confidence: float
    errors: pd.DataFrame
    changes: tuple[PermutationChange, ...]
    differences: tuple[RungDifference, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every answer: the differences of differences first, of them the significant ones, each kind by rung."""
        return (*sorted(self.differences, key=lambda one: not one.is_significant), *self.changes)

    @property
    def at_chance(self) -> pd.DataFrame:
        """The permuted rows of `errors` that have little room left to rise."""
        rows = self.errors[self.errors["near_chance"] & (self.errors["rung"] != REFERENCE)]
        return rows.reset_index(drop=True)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rungs": list(self.rungs),
            "column": self.column,
            "confidence": self.confidence,
            "errors": plain(self.errors),
            "findings": plain(self.findings),
            "left_out": [str(item) for item in self.left_out],
        }


def unpermuted(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that curves are of: where some images are permuted and others not, those of images as they are."""
    if "permutation" not in frame or frame["permutation"].nunique() < 2:
        return frame
    return frame[frame["permutation"] == REFERENCE].reset_index(drop=True)


def permutation_ladder(
    frame: pd.DataFrame,
    *,
    pair: tuple[str, str] | None = None,
    x: str = "num_train",
    rule: Rule = "selected",
    blocks: Mapping[Hashable, np.ndarray] | None = None,
    chance: float | None = None,
    confidence: float = 0.95,
) -> Ladder | None:
    """The ladder of a table of records; None where not both permuted and unpermuted images were trained on.

    Args:
        frame: `studies.records.records_frame`.
        pair: the arms whose changes are compared, the stronger prior first.
        x: what the curves run over.
        rule: which branch of each cell is read.
        blocks: `studies.analysis.study.read_blocks`.
        chance: error of guessing, where known.
        confidence: nominal coverage of all intervals; claims are made at 1 - confidence.
    """
    if "permutation" not in frame:
        return None
    found = set(frame["permutation"])
    rungs = tuple(str(rung) for rung in get_args(Permutation) if rung in found and rung != REFERENCE)
    if REFERENCE not in found or not rungs:
        return None
    tables = {
        rung: records_table(frame[frame["permutation"] == rung], rule=rule, x=x, blocks=blocks)
        for rung in (REFERENCE, *rungs)
    }
    errors = _errors(frame, rungs, x, rule, chance, confidence)
    measured = dict.fromkeys(arm for table in tables.values() for arm in table.curves)
    changes = tuple(permutation_change(arm, tables, x, confidence) for arm in measured)
    return Ladder(
        rungs=rungs,
        column=x,
        confidence=confidence,
        errors=errors,
        changes=changes,
        differences=() if pair is None else rung_differences(pair, tables, x, errors, confidence),
        left_out=(*_unmeasured(frame, tables, x), *(item for one in changes for item in one.left_out)),
    )


def _unmeasured(frame: pd.DataFrame, tables: Mapping[str, CurveTable], column: str) -> list[LeftOut]:
    """Arms, rungs and x without a point; over images, every arm is trained on every number of them."""
    of, sizes, found = quantity(column), frame[frame[column] > 0], []
    if column in BRANCH_COLUMNS:  # budgets are no grid: each arm and rung has its own
        sizes = sizes[:0]
    for rung, table in tables.items():
        for arm in dict.fromkeys(frame["arm"]):
            if arm not in table.curves:
                found.append(LeftOut(f"{arm} {on_images(rung)}", "no finished cell"))
                continue
            own = sizes if of.counts_images else sizes[sizes["arm"] == arm]
            lacking = sorted(set(own[column].astype(float)) - set(table.curves[arm].x.tolist()))
            if lacking:
                found.append(LeftOut(f"{arm} at {values_text(of, lacking)} {on_images(rung)}", "no finished cell"))
    return found


def _errors(
    frame: pd.DataFrame, rungs: tuple[str, ...], x: str, rule: Rule, chance: float | None, confidence: float
) -> pd.DataFrame:
    points = curve_points(frame, rule)
    order = {rung: place for place, rung in enumerate((REFERENCE, *rungs))}
    rows = []
    for (arm, rung, size), cells in points.groupby(["arm", "permutation", x], sort=True):
        error = cells["test_error"].to_numpy(float)
        count = len(error)
        std = float(np.std(error, ddof=1)) if count > 1 else math.nan
        rows.append(
            {
                "arm": arm,
                "rung": rung,
                "x": float(str(size)),
                "num_replicates": count,
                "mean": float(error.mean()),
                "half_width": t_quantile(0.5 + confidence / 2, count - 1) * std / math.sqrt(count),
                "near_chance": chance is not None and bool(error.mean() > NEAR_CHANCE * chance),
            }
        )
    columns = ["arm", "rung", "x", "num_replicates", "mean", "half_width", "near_chance"]
    errors = pd.DataFrame(rows, columns=columns).astype({"near_chance": bool})
    return errors.sort_values(["arm", "x", "rung"], key=lambda of: of.map(order) if of.name == "rung" else of,
                              kind="stable", ignore_index=True)  # fmt: skip
