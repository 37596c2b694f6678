"""Writes the report of a study: figures, tables, page. The same records and card give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from studies.analysis.few_shot_curves import FewShotAnswers
from studies.analysis.probe_answers import ProbeAnswers
from studies.analysis.study import analyse_study, read_blocks
from studies.company import Company
from studies.files import write_atomically, write_text
from studies.kept_predictions import lost_statement
from studies.records import Record, records_frame

from .card import StudyCard
from .contents import report_tables, sections
from .drawings import material
from .drawn import begin_drawing
from .few_shot_section import few_shot_statements
from .gathered import Gathered, gather
from .ladder_section import ladder_statements
from .page import render_page
from .starts_table import stages_table
from .statements import main_statements, progress_statement, statement_families


@dataclass(frozen=True)
class ReportPaths:
    """Where the report lies. A study without finished cells has a page and no figures.

    Attributes:
        page: the page.
        answers: every answer as JSON.
        figures: PNG and SVG.
        tables: markdown.
        statements: what the page says first.
        incomplete: of these, what says that cells are missing or in trouble, or their predictions lost; empty where all
            are finished and whole.
    """

    page: Path
    answers: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]
    statements: tuple[str, ...]
    incomplete: str = ""


def write_report(
    records: Iterable[Record],
    card: StudyCard,
    folder: Path,
    predictions: Mapping[str, Path] | None = None,
    few_shot: FewShotAnswers | None = None,
    stages: Mapping[str, Iterable[Record]] | None = None,
    probes: ProbeAnswers | None = None,
) -> ReportPaths:
    """`write_gathered` of the records of a study so far, in any order; gone through once, and none is kept."""
    return write_gathered(gather(records, card), card, folder, predictions, few_shot, stages, probes)


def write_gathered(
    gathered: Gathered,
    card: StudyCard,
    folder: Path,
    predictions: Mapping[str, Path] | None = None,
    few_shot: FewShotAnswers | None = None,
    stages: Mapping[str, Iterable[Record]] | None = None,
    probes: ProbeAnswers | None = None,
    second: Company | None = None,
    lost_predictions: Collection[str] = (),
) -> ReportPaths:
    """Writes `index.html`, `answers.json`, `figures/*.{png,svg}` and `tables/*.md` under `folder`.

    Args:
        gathered: from the records of the study so far, failed cells included.
        card: the study as declared.
        folder: made if absent. Figures and tables of an earlier report that no longer apply are removed.
        predictions: `predictions.npz` per cell id, to add the variance from a shared test set.
        few_shot: the few-shot evaluations, where the study declares some.
        stages: by name the records of the earlier stages, whose weights arms begin from.
        probes: what its networks were probed for, where they were.
        second: a process that computes and draws some of it, where there is one; the bytes are the same.
        lost_predictions: cells whose predictions turned out to be missing or damaged once `predictions` were read.
    """
    frame, losses = gathered.frame, gathered.losses
    card = replace(card, num_damaged=len(gathered.unreadable))
    blocks = read_blocks(frame, predictions or {})
    answers = analyse_study(
        frame, pair=card.primary_pair, chance=card.chance_error, blocks=blocks, x=card.x, second=second
    )
    earlier = {name: records_frame(own, card.tier) for name, own in (stages or {}).items()}
    earlier = {name: own for name, own in earlier.items() if len(own)}
    of = material(frame, card, answers, few_shot, probes, losses)
    images_of = begin_drawing(of, second)
    shown = report_tables(of)
    if earlier:
        shown["stages"] = stages_table(earlier)
    progress = " ".join(filter(None, [progress_statement(frame, card), lost_statement(lost_predictions)]))
    main = main_statements(answers, card, statement_families(of.frame), of.names)
    if answers.ladder is not None:
        main = ladder_statements(answers.ladder, of.names) + main
    values_of_all = answers.as_dict()
    if few_shot is not None:
        values_of_all["few_shot"] = few_shot.as_dict()
        main += few_shot_statements(few_shot)
    if probes is not None:
        values_of_all["probes"] = probes.as_dict()

    images = images_of()
    pictures = {image.picture.name: image.picture for image in images}
    figure_paths, table_paths = [], []
    for image in images:
        for suffix, content in (("png", image.png), ("svg", image.picture.svg)):
            figure_paths.append(folder / "figures" / f"{image.picture.name}.{suffix}")
            _write_bytes(figure_paths[-1], content)
    for table in shown.values():
        table_paths.append(folder / "tables" / f"{table.name}.md")
        write_text(table_paths[-1], table.markdown(), durable=False)
    _remove_stale(folder, {*figure_paths, *table_paths})
    page, values = folder / "index.html", folder / "answers.json"
    write_text(values, json.dumps(values_of_all, indent=1, allow_nan=False) + "\n", durable=False)
    write_text(page, render_page(card, progress, main, sections(of, pictures, shown)))
    said = tuple(filter(None, [progress, *main]))
    return ReportPaths(page, values, tuple(figure_paths), tuple(table_paths), said, progress)


def _write_bytes(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content), durable=False)


def _remove_stale(folder: Path, kept: set[Path]) -> None:
    for path in [*folder.glob("figures/*.png"), *folder.glob("figures/*.svg"), *folder.glob("tables/*.md")]:
        if path not in kept:
            path.unlink(missing_ok=True)  # another launcher may be writing the same report
