"""All answers of one study: under both rules for reading a cell, at equal compute and at equal seconds."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.company import Company, later
from studies.records import read_predictions

from .answers import DEFAULT_INTERPOLATION, Answers, analyse
from .choice import Choice, choose, with_significance
from .crossover import Crossover, crossover
from .curve import Curve
from .finding import Finding, plain
from .from_scratch import against_scratch
from .ladder import Ladder, permutation_ladder, unpermuted
from .multiplier import Multiplier, multiplier
from .of_records import Rule, block_counts, records_table, rules_that_differ
from .paired import SAME_X, PairedTests, paired_tests
from .table import CurveTable
from .traits import differs_in
from .variance import VarianceSplit, variance_split

Blocks = Mapping[Hashable, np.ndarray]
"""Errors per block of test images, int64 [B, 2], by (cell id, branch)."""


@dataclass(frozen=True)
class CostView:
    """Error against what training costs, at one number of training images.

    Attributes:
        num_train: training images.
        table: the curves over the cost; every branch is a point.
        crossover: of the declared pair; None where it was not measured.
        multiplier: the same pair; how many times more compute or time for the same error.
        choices: the best family at the costs of the branches or, where these differ between families, at the ends and
            in the middle of what all families have in common.
    """

    num_train: int
    table: CurveTable
    crossover: Crossover | None
    multiplier: Multiplier | None
    choices: tuple[Choice, ...]

    @property
    def column(self) -> str:
        """Which cost."""
        return self.table.columns.x

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every answer."""
        return tuple(one for one in (self.crossover, self.multiplier, *self.choices) if one is not None)


@dataclass(frozen=True)
class StudyAnswers:
    """What the records of a study say.

    Attributes:
        by_rule: over training images, where any cell entered; only `selected` where no cell has several branches.
        compute: against training FLOPs, for the largest and a middle number of training images, where cells have
            branches.
        seconds: against seconds of training, of packed runs.
        variance: where the spread over replicates comes from.
        against_scratch: what the starts of arms are worth.
        ladder: what permutations of the images cost, where some of them are permuted; all other answers are of those
            that are not.
    """

    by_rule: Mapping[Rule, Answers]
    compute: tuple[CostView, ...]
    seconds: tuple[CostView, ...]
    variance: VarianceSplit
    against_scratch: tuple[PairedTests, ...] = ()
    ladder: Ladder | None = None

    @property
    def primary(self) -> Answers | None:
        """The answers at the branch chosen on validation; None where no cell is finished."""
        return self.by_rule.get("selected")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        views = [
            {"column": view.column, "num_train": view.num_train, "findings": plain(view.findings)}
            for view in (*self.compute, *self.seconds)
        ]
        return {
            "by_rule": {rule: answers.as_dict() for rule, answers in self.by_rule.items()},
            "by_cost": views,
            "variance": self.variance.as_dict(),
            "against_scratch": plain(self.against_scratch),
            **({} if self.ladder is None else {"ladder": self.ladder.as_dict()}),
        }


def analyse_study(
    frame: pd.DataFrame,
    *,
    pair: tuple[str, str] | None = None,
    chance: float | None = None,
    blocks: Blocks | None = None,
    x: str = "num_train",
    second: Company | None = None,
) -> StudyAnswers:
    """Answers all questions of a table of records.

    Args:
        frame: `studies.records.records_frame`.
        pair: the declared pair, the stronger prior first; not used where one of the two was not measured.
        chance: error of guessing.
        blocks: `read_blocks`.
        x: what the curves run over, `num_train` or `num_pretrain`; costs are compared at sizes of the former alone.
        second: a process that answers one of the rules and what concerns costs meanwhile, where there is one.
    """
    ladder = permutation_ladder(frame, pair=pair, x=x, blocks=blocks, chance=chance)
    frame = unpermuted(frame)
    tables: dict[Rule, CurveTable] = {}
    answers: dict[Rule, Callable[[], Answers]] = {}
    rules = rules_that_differ(frame)
    for rule in reversed(rules):  # what is for the second process first
        table = records_table(frame, rule=rule, x=x, blocks=blocks)
        if table.curves:
            beside = second if rule != rules[0] else None
            tables[rule] = table
            answers[rule] = later(beside, analyse, table, pair=measured_pair(table, pair), chance=chance)
    views: dict[str, list[Callable[[], CostView | None]]] = {}
    for column in ("train_flops", "train_seconds"):
        costs = [
            (size, records_table(frame, x=column, num_train=size, blocks=blocks))
            for size in (_told_sizes(tables.values()) if x == "num_train" else ())
        ]
        views[column] = [later(second, cost_view, table, size, pair=pair, chance=chance) for size, table in costs]
    by_rule = {rule: answers[rule]() for rule in rules if rule in answers}
    variance, gains = variance_split(frame), against_scratch(frame, x=x, blocks=blocks)
    compute, seconds = (
        tuple(view for answer in views[column] if (view := answer()) is not None)
        for column in ("train_flops", "train_seconds")
    )
    return StudyAnswers(by_rule, compute, seconds, variance, gains, ladder)


def _told_sizes(tables: Iterable[CurveTable]) -> list[int]:
    """The sizes that costs are compared at: the largest of some curves, and a middle one."""
    measured = sorted({int(x) for table in tables for curve in table.curves.values() for x in curve.x})
    return list(dict.fromkeys([measured[-1], measured[(len(measured) - 1) // 2]])) if measured else []


def cost_view(
    table: CurveTable, num_train: int, *, pair: tuple[str, str] | None = None, chance: float | None = None
) -> CostView | None:
    """Error against a cost at one size; None where no family has two branches there.

    Args:
        table: of `records_table`, over the cost, at this size.
        num_train: training images.
        pair: the declared pair; not used where one of the two was not measured.
        chance: error of guessing.
    """
    curves = table.curves
    if not any(len(curve.x) > 1 for curve in curves.values()):
        return None
    pair = measured_pair(table, pair)
    if pair is None and len(curves) == 2:
        first, second = curves
        pair = (first, second)
    choices = [choose(curves, x, interpolation=DEFAULT_INTERPOLATION) for x in _shared_costs(list(curves.values()))]
    compared: dict[str, Any] = {"crossover": None, "multiplier": None}
    if pair is not None:
        first_curve, second_curve = curves[pair[0]], curves[pair[1]]
        compared["crossover"] = crossover(first_curve, second_curve, interpolation=DEFAULT_INTERPOLATION)
        compared["multiplier"] = multiplier(
            first_curve,
            second_curve,
            interpolation=DEFAULT_INTERPOLATION,
            chance=chance,
            differs_in=differs_in(*pair, table.traits),
        )
    chosen = [choice for choice in choices if choice is not None]
    rivals = {tuple(sorted((choice.family, other))) for choice in chosen for other in choice.against}
    tests = [paired_tests(curves[a], curves[b], interpolation=DEFAULT_INTERPOLATION) for a, b in sorted(rivals)]
    return CostView(num_train, table, **compared, choices=with_significance(chosen, tests))


def measured_pair(table: CurveTable, pair: tuple[str, str] | None) -> tuple[str, str] | None:
    """The declared pair where both were measured."""
    return pair if pair is not None and set(pair) <= set(table.curves) else None


def read_blocks(frame: pd.DataFrame, predictions: Mapping[str, Path]) -> dict[Hashable, np.ndarray]:
    """Errors per block of test images for every cell and branch whose predictions can be read.

    Args:
        frame: `studies.records.records_frame`.
        predictions: `predictions.npz` per cell id, of `kept_predictions`. A missing or damaged one is absent from the
            answer, and the statements say that the variance of the test set was not counted.

    Returns:
        `block_counts` by (cell id, branch); nothing where replicates have test images of their own, whose choice their
        spread contains already.
    """
    tested = frame[frame["test_error"].notna()]
    if tested["replicate"].nunique() < 2 or tested["test_checksum"].nunique() != 1:
        return {}
    blocks: dict[Hashable, np.ndarray] = {}
    for cell_id, rows in tested.groupby("cell_id", sort=True):
        with contextlib.suppress(KeyError, OSError, ValueError, zipfile.BadZipFile, zlib.error):
            arrays = read_predictions(predictions[str(cell_id)])
            blocks |= {(cell_id, branch): block_counts(arrays, branch) for branch in rows["branch"]}
    return blocks


def _shared_costs(curves: Sequence[Curve]) -> list[float]:
    """Costs at which the families of a matched study can all be chosen from, ascending."""
    low, high = max(float(curve.x[0]) for curve in curves), min(float(curve.x[-1]) for curve in curves)
    if low > high:
        return []
    if len({len(curve.x) for curve in curves}) == 1:
        points = np.log(np.stack([curve.x for curve in curves]))  # [families, branches]
        if (np.ptp(points, axis=0) <= np.log1p(SAME_X)).all():
            return [float(x) for x in np.clip(np.exp(points.mean(axis=0)), low, high)]
    return [float(x) for x in np.unique(np.geomspace(low, high, 3))]
