"""Cells that failed or diverged: where, why, and what that does to the answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import pandas as pd

from studies.analysis.of_records import curve_points
from studies.counts import counted

from .card import StudyCard
from .tables import size_heading

FAILED = ("failed", "invalid")
MOST_PLACES = 12
"""Places told of one by one; the table has all of their cells."""


def troubled_remarks(frame: pd.DataFrame, card: StudyCard, names: Mapping[str, str]) -> list[str]:
    """What failed and diverged cells do to the answers, place by place.

    Args:
        frame: the table of records, permuted images included.
        card: the study as declared.
        names: labels of the arms.
    """
    cells = frame.drop_duplicates("cell_id")
    if not cells["status"].isin([*FAILED, "diverged"]).any():
        return []
    failed, diverged = list(_failed(cells, card.x, names)), list(_diverged(frame, cells, card, names))
    told = _at_most(failed)
    if failed:
        told.append(
            "Crossovers and data multipliers leave out the whole row of a replicate with a failed cell, or the size it "
            "failed at, and paired tests the replicate at that size. "
            "The command that trained them, with --retry failed added, trains failed cells again; "
            "`study logs CELL` says what happened."
        )
    told += _at_most(diverged)
    if diverged:
        told.append(
            "A diverged cell is a result of its recipe, not a fault of the machine: trained again it diverges again. "
            "So it is kept and counted."
        )
    return told


def _failed(cells: pd.DataFrame, x: str, names: Mapping[str, str]) -> Iterator[str]:
    for place, of_place in _places(cells, x, names):
        failed = of_place[of_place["status"].isin(FAILED)]
        if failed.empty:
            continue
        left = len(of_place) - len(failed)
        effect = {
            0: "its curve has no point there",
            1: "its point there rests on one run, without any interval",
            2: "its point there rests on two runs, which carry no useful interval",
        }.get(left, f"its point there rests on {left} runs, with a wider interval")
        reasons = "; ".join(dict.fromkeys(str(reason) for reason in failed["reason"] if reason))
        of = f"{len(failed)} of {counted(len(of_place), 'run')}"
        yield f"{place}: {of} failed{f' ({reasons})' if reasons else ''}; {effect}."


def _diverged(frame: pd.DataFrame, cells: pd.DataFrame, card: StudyCard, names: Mapping[str, str]) -> Iterator[str]:
    points = curve_points(frame)
    at_chance = set(points.loc[points["diverged"].astype(bool), "cell_id"])
    for place, of_place in _places(cells, card.x, names):
        diverged = of_place[of_place["status"] == "diverged"]
        if diverged.empty:
            continue
        counts = int(diverged["cell_id"].isin(at_chance).sum())
        chosen = len(diverged) - counts
        effects = [
            f"{counts} counted at chance ({100 * card.chance_error:.3g}%), which raises the mean" if counts else "",
            f"{chosen} read at a branch chosen on validation that did not diverge" if chosen else "",
        ]
        of = f"{len(diverged)} of {counted(len(of_place), 'run')}"
        yield f"{place}: {of} diverged, {' and '.join(filter(None, effects))}."


def _places(cells: pd.DataFrame, x: str, names: Mapping[str, str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every arm at every size, and under every permutation: what it is called, and its cells."""
    for key, of_place in cells.groupby(["arm", "permutation", x], sort=True):
        arm, permutation, size = cast("tuple[str, str, float]", key)
        permuted = "" if permutation == "none" else f", permuted ({permutation})"
        yield f"{names.get(arm, arm)}, {size_heading(int(size), x)}{permuted}", of_place


def _at_most(told: list[str]) -> list[str]:
    rest = len(told) - MOST_PLACES
    return told if rest <= 0 else [*told[:MOST_PLACES], f"And {counted(rest, 'more place')}, in the table below."]
