"""Writes the report of a study: figures, tables, page. The same records and card give the same bytes."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from studies.curves import RULES, Crossing, block_counts, curve_points, observed_crossing
from studies.files import write_atomically, write_text
from studies.records import Record, read_predictions, records_frame

from . import figures, hyperparameters, statements, tables
from .axes import png_bytes, svg_bytes
from .card import StudyCard
from .page import Picture, Section, render_page
from .tables import Table

METHODS = (
    "A run spends C = 3 × forward × batch × steps nominal training FLOPs (a multiply-add counts as two). Unless a note "
    "says otherwise, all runs have the same batch size and number of steps, and forward FLOPs per image are equal "
    "within 2%, so that C is the same for all. The learning rate warms up linearly, stays "
    "constant and falls by 1 − √ over the last part of every branch; branches at fractions of C start from one "
    "trunk. The optimiser is AdamW for all.",
    "The primary number is the test error of the branch with the smallest validation error, the same rule for "
    "everyone; the branch at exactly C is shown beside it. Test images choose nothing.",
    "Training subsets are nested and stratified; subset and order seeds are shared by all arms of a replicate, "
    "which makes the comparison of two arms a paired one. Lines are geometric means over replicates, bands 95% "
    "t-intervals of the mean log error, dots single runs. An error of zero enters logarithms as half an error.",
    "Two curves are said to cross only if each arm is significantly better at some size; that none crosses is "
    "said only with one-sided evidence at every size; otherwise the question is not resolved. The place of the "
    "crossing is where the mean log errors, interpolated in log N, are equal: a description, without an interval "
    "of its own.",
)


@dataclass(frozen=True)
class ReportPaths:
    """Where the report lies. A study without finished cells has a page and no figures."""

    page: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]
    statements: tuple[str, ...]


def write_report(
    records: Sequence[Record],
    card: StudyCard,
    folder: Path,
    predictions: Mapping[str, Path] | None = None,
) -> ReportPaths:
    """Writes `index.html`, `figures/*.{png,svg}` and `tables/*.md` under `folder`.

    Args:
        records: the records of the study so far, in any order; failed cells included.
        card: the study as declared.
        folder: made if absent. Figures and tables of an earlier report that no longer apply are removed.
        predictions: `predictions.npz` per cell id, to add the variance from a shared test set.
    """
    frame = records_frame(sorted(records, key=lambda record: record.cell_id))
    crossings = _crossings(frame, card, predictions)
    drawn, captions = _draw(records, frame, card, crossings)
    shown = _tables(frame, card, crossings)
    progress = statements.progress_statement(frame, card)
    answers = _answers(frame, card, crossings)

    figure_paths, table_paths, pictures = [], [], {}
    for name, draw in drawn.items():
        figure = draw()
        svg = svg_bytes(figure)
        pictures[name] = Picture(name, svg, captions[name], captions[name].split(". ")[0], figure.get_figwidth())
        for suffix, content in (("png", png_bytes(figure)), ("svg", svg)):
            figure_paths.append(folder / "figures" / f"{name}.{suffix}")
            _write_bytes(figure_paths[-1], content)
    for table in shown.values():
        table_paths.append(folder / "tables" / f"{table.name}.md")
        write_text(table_paths[-1], table.markdown(), durable=False)
    _remove_stale(folder, {*figure_paths, *table_paths})
    page = folder / "index.html"
    write_text(page, render_page(card, progress, answers, _sections(frame, card, crossings, pictures, shown)))
    return ReportPaths(page, tuple(figure_paths), tuple(table_paths), tuple(filter(None, [progress, *answers])))


def _crossings(frame: pd.DataFrame, card: StudyCard, predictions: Mapping[str, Path] | None) -> list[Crossing]:
    pair = card.primary_pair
    if pair is None:
        return []
    crossings = []
    for rule in RULES:
        points = curve_points(frame, rule)
        if not set(pair) <= set(points["arm"]):
            continue
        blocks = None if predictions is None else _blocks(points[points["arm"].isin(pair)], predictions)
        crossings.append(observed_crossing(frame, *pair, rule=rule, blocks=blocks))
    return crossings


def _blocks(points: pd.DataFrame, predictions: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Errors per block of test images, per cell id.

    Cells whose predictions are missing or damaged are absent, and the report says that the variance of the test set was
    not counted.
    """
    blocks = {}
    for cell_id, branch in zip(points["cell_id"], points["branch"], strict=True):
        with contextlib.suppress(KeyError, OSError, ValueError, zipfile.BadZipFile, zlib.error):
            blocks[cell_id] = block_counts(read_predictions(predictions[cell_id]), branch)
    return blocks


def _answers(frame: pd.DataFrame, card: StudyCard, crossings: Sequence[Crossing]) -> list[str]:
    looks = figures.looks_of(frame)
    answers = [statements.crossing_statement(crossing, looks) for crossing in crossings if crossing.rule == "selected"]
    for crossing in crossings:
        if crossing.rule == "full_budget":
            text = statements.crossing_statement(crossing, looks)
            same = bool(answers) and text == answers[0]
            start = "Read at the full budget, instead of at the branch chosen on validation,"
            answers.append(f"{start} the answer is the same." if same else f"{start} the answer is this. {text}")
    answers += statements.best_statements(frame, looks)
    answers.append(statements.floor_statement(frame, card, looks))
    return [answer for answer in answers if answer]


def _draw(
    records: Sequence[Record], frame: pd.DataFrame, card: StudyCard, crossings: Sequence[Crossing]
) -> tuple[dict[str, Callable[[], Figure]], dict[str, str]]:
    by_rule = {crossing.rule: crossing for crossing in crossings}
    drawn: dict[str, Callable[[], Figure]] = {}
    if not curve_points(frame, "selected").empty:
        drawn["data_curves"] = lambda: figures.plot_curves(frame, card, crossing=by_rule.get("selected"))
    if not curve_points(frame, "full_budget").empty:
        drawn["data_curves_full_budget"] = lambda: figures.plot_curves(
            frame, card, rule="full_budget", crossing=by_rule.get("full_budget")
        )
        drawn["cost"] = lambda: figures.plot_cost(frame)
    if "data_curves" in drawn:
        drawn["error_against_flops"] = lambda: figures.plot_error_against_flops(frame)
        drawn["validation_against_test"] = lambda: figures.plot_validation_against_test(frame)
    if any(entry.branch == 0 and np.isfinite(entry.loss) for record in records for entry in record.train_losses):
        drawn["training_loss"] = lambda: figures.plot_training_loss(records)
    bands = "Lines: geometric means; bands: 95% t-intervals, from three replicates up; dots: single runs."
    captions = {
        "data_curves": f"Test error against training images, each run at the branch chosen on validation. {bands}",
        "data_curves_full_budget": f"Test error against training images, each run at the full budget C. {bands}",
        "error_against_flops": "Mean test error of every branch against its training FLOPs, a panel per training size.",
        "validation_against_test": "Validation error, which chose the branch, against test error; a dot per run. Far "
        "from the diagonal, validation was a poor judge.",
        "training_loss": "Training loss of the trunk, before any cooldown; mean over replicates.",
        "cost": "What equal nominal FLOPs leave unequal. Seconds are of packed runs, not a measurement of speed.",
    }
    return drawn, captions


def _tables(frame: pd.DataFrame, card: StudyCard, crossings: Sequence[Crossing]) -> dict[str, Table]:
    looks = figures.looks_of(frame)
    made = [tables.missing_table(frame, card)]
    if len(frame):
        made += [tables.settings_table(frame), tables.seeds_table(frame)]
    if len(frame) and card.tuning is not None:
        made.append(hyperparameters.tuned_table(frame, card.tuning, card.executed_flops))
    for rule in RULES:
        if not curve_points(frame, rule).empty:
            made.append(tables.error_table(frame, rule))
    made += [tables.difference_table(crossing, looks) for crossing in crossings]
    if not curve_points(frame, "full_budget").empty:
        made.append(tables.cost_table(frame))
    if not curve_points(frame).empty:
        made.append(tables.cells_table(frame))
    return {table.name: table for table in made}


def _sections(
    frame: pd.DataFrame,
    card: StudyCard,
    crossings: Sequence[Crossing],
    pictures: Mapping[str, Picture],
    shown: Mapping[str, Table],
) -> list[Section]:
    def of(heading: str, names: str, **parts: Sequence[str] | Sequence[tuple[str, str]]) -> Section:
        keys = names.split()
        return Section(
            heading,
            pictures=[pictures[key] for key in keys if key in pictures],
            tables=[shown[key] for key in keys if key in shown],
            **parts,  # type: ignore[arg-type]
        )

    reservations = statements.reservation_statements(frame, card, list(crossings))
    sections = [
        of("Data curves", "data_curves test_error_selected difference_selected"),
        of("At the full budget", "data_curves_full_budget test_error_full_budget difference_full_budget"),
        of("Along the way", "error_against_flops validation_against_test training_loss"),
        of("What it cost", "cost"),
        of("Tuned hyper-parameters", "tuned"),
        Section("Read with this in mind", remarks=reservations),
        of("Cells left out", "left_out"),
        Section("Methods", paragraphs=METHODS),
    ]
    folded = [shown[name] for name in ("settings", "seeds", "cells") if name in shown]
    sections.append(Section("Provenance", facts=_facts(frame, card), folded=folded))
    return [s for s in sections if s.pictures or s.tables or s.paragraphs or s.remarks or s.facts]


def _facts(frame: pd.DataFrame, card: StudyCard) -> list[tuple[str, str]]:
    facts = [
        ("Study", card.study_id),
        ("Plan hash", card.plan_hash),
        ("Protocol", card.protocol_version),
        ("Cells planned", f"{card.num_cells:,}"),
        ("Validation images", f"{card.num_validation:,}"),
        ("Chance error", f"{card.chance_error:g}"),
    ]
    if card.tuning is not None:
        facts.append(("Tuning", f"{card.tuning.name}, sha256 {card.tuning.sha256}"))
    if card.bayes_error is not None:
        facts.append(("Bayes error", f"{card.bayes_error:g}"))
    columns = {
        "data_fingerprint": "Data fingerprint",
        "num_test": "Test images",
        "code_version": "Code",
        "torch": "torch",
        "device": "Device",
        "host": "Host",
    }
    for column, term in columns.items():
        values = sorted({str(value) for value in frame[column].dropna()})
        if values:
            facts.append((term, ", ".join(values)))
    return facts


def _write_bytes(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content), durable=False)


def _remove_stale(folder: Path, kept: set[Path]) -> None:
    for path in [*folder.glob("figures/*.png"), *folder.glob("figures/*.svg"), *folder.glob("tables/*.md")]:
        if path not in kept:
            path.unlink()
