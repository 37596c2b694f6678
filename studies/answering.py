"""Answering: records are read back, as tables, answers and the report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pandas as pd

from .analysis.answers import Answers, analyse
from .analysis.few_shot_curves import FewShotAnswers
from .analysis.ladder import Ladder, permutation_ladder, unpermuted
from .analysis.measured import CONTROL
from .analysis.of_records import Rule, records_table
from .analysis.probe_answers import ProbeAnswers, ProbeArrays
from .analysis.study import measured_pair, read_blocks
from .analysis.table import CurveTable
from .company import Company, report_company
from .counts import counted
from .errors import ConfigError
from .few_shot_results import few_shot_frame, waiting_networks
from .gathering import begin_gathering
from .grid import Plan
from .kept_predictions import KeptPredictions, stated_predictions
from .probes.probe_results import probe_arrays, probe_frame
from .probes.subjects import why_not_probed
from .records import Record, records_frame
from .report.card import StudyCard
from .report.gathered import Gathered
from .report.write import ReportPaths, write_gathered
from .start_checks import lost_starts
from .store import Store

WITH_ARRAYS = ("receptive_field", "attention_distance", "position_similarity", "first_layer")
"""Probes whose arrays a figure of the report draws."""


def load_records(study: str = "data_scaling", store: Path | str = "results") -> list[Record]:
    """The records of a study, by its name or id.

    Raises:
        StoreError: the store has no such study.
    """
    found = Store(store)
    return found.records(found.plan(study))


def load_answers(
    study: str = "data_scaling",
    store: Path | str = "results",
    *,
    rule: Rule = "selected",
    x: str | None = None,
    num_train: int | None = None,
    control: str | None = None,
) -> Answers:
    """What the records of a study say, with its declared pair, its chance error and its test images counted in.

    Args:
        study: name or id.
        store: where its records are.
        rule: `selected` reads the branch chosen on validation, `full_budget` the branch at exactly C.
        x: what error is measured against; see `records_table`. By default what the study declares.
        num_train: only cells of this size; needed where x is a cost of branches, as `train_flops`.
        control: name or id of the same study with permuted pixels, for the difference of differences; by default the
            rung of permuted pixels of a study that has a ladder.

    Raises:
        StoreError: the store has no such study.
        ConfigError: there is no such column, or it holds no numbers.
    """
    found = Store(store)
    planned = found.plan(study)

    def tables_of(one: Plan) -> tuple[CurveTable, CurveTable | None]:
        records = found.records(one)
        frame = records_frame(records, one.spec.tier)
        blocks = read_blocks(frame, KeptPredictions(found, stated_predictions(records)))

        def table_of(rows: pd.DataFrame) -> CurveTable:
            return records_table(rows, rule=rule, x=x or planned.spec.x, num_train=num_train, blocks=blocks)

        own = unpermuted(frame)
        permuted = frame[frame["permutation"] == CONTROL]
        return table_of(own), table_of(permuted) if len(own) < len(frame) and len(permuted) else None

    table, own_control = tables_of(planned)
    return analyse(
        table,
        pair=measured_pair(table, planned.spec.primary_pair),
        control=own_control if control is None else tables_of(found.plan(control))[0],
        chance=chance_error(planned),
    )


def load_ladder(study: str = "permutation_ladder", store: Path | str = "results", *, rule: Rule = "selected") -> Ladder:
    """What permutations of the images cost the arms of a study, with its declared pair.

    Args:
        study: name or id of a study with a ladder.
        store: where its records are.
        rule: as of `load_answers`.

    Raises:
        StoreError: the store has no such study.
        ConfigError: it has no results on both permuted and unpermuted images.
    """
    found = Store(store)
    planned = found.plan(study)
    records = found.records(planned)
    frame = records_frame(records, planned.spec.tier)
    ladder = permutation_ladder(
        frame,
        pair=planned.spec.primary_pair,
        x=planned.spec.x,
        rule=rule,
        blocks=read_blocks(frame, KeptPredictions(found, stated_predictions(records))),
        chance=chance_error(planned),
    )
    if ladder is None:
        raise ConfigError(
            f"{planned.study_id} has no finished cells both with and without a permutation of the images; "
            "ladder=[none,within_patch,patches,pixels] makes a study train them"
        )
    return ladder


def load_probes(study: str = "data_scaling", store: Path | str = "results") -> ProbeAnswers:
    """What `study probe` measured of the networks of a study.

    Args:
        study: name or id.
        store: where its results are.

    Raises:
        StoreError: the store has no such study.
        ConfigError: its networks were not probed; says how they are.
    """
    found = Store(store)
    planned = found.plan(study)
    probes = probe_answers(planned, found)
    if probes is None:
        raise ConfigError(
            f"{planned.study_id} has no results of probes: `study probe {planned.spec.name}` makes them, from weights "
            "that were kept with engine.keep_checkpoints=true"
        )
    return probes


def report_study(
    planned: Plan,
    store: Store,
    card: StudyCard | None = None,
    second: Company | None = None,
    gathering: Callable[[], Gathered] | None = None,
) -> ReportPaths:
    """Writes the report of a study from its records alone.

    Args:
        second: of `company.report_company`; by default one is begun where it is worth it.
        gathering: of `begin_gathering`, where that has been called before.

    Raises:
        ConfigError: the plan is a tuning's, which has no test errors to report.
    """
    if planned.is_tuning:
        raise ConfigError(
            f"{planned.study_id} is a tuning: it has no report, its result is the file that `study tune` writes; "
            "`study status` and `study export` show its cells"
        )
    folder = store.study_folder(planned.study_id) / "report"
    with nullcontext(second) if second is not None else report_company(len(planned.cells)) as beside:
        card = card or study_card(planned)
        gathered = (gathering or begin_gathering(planned, store, beside))()
        predictions = KeptPredictions(store, gathered.predictions)
        return write_gathered(
            gathered,
            replace(card, notes=(*card.notes, *_lost_notes(planned, store))),
            folder,
            predictions,
            few_shot_answers(planned, store),
            {stage.spec.name: store.each_record(stage) for stage in planned.pretraining},
            probe_answers(planned, store),
            beside,
            predictions.lost,
        )


def _lost_notes(planned: Plan, store: Store) -> tuple[str, ...]:
    """What is told of cells that will not be trained, because what they begin from was lost."""
    lost = lost_starts(planned, store)
    reasons = "; ".join(dict.fromkeys(lost.values()))
    return (f"{counted(len(lost), 'cell')} cannot be trained: {reasons}.",) if lost else ()


def study_card(planned: Plan) -> StudyCard:
    """What the report and the mirror say of the study besides its records."""
    spec = planned.spec
    classifies = spec.objective == "classification"
    bayes = getattr(spec.data, "bayes_error", None) if classifies and not planned.is_tuning else None
    return StudyCard(
        name=spec.name,
        study_id=planned.study_id,
        question=spec.question,
        plan_hash=planned.hash,
        protocol_version=planned.protocol_version,
        num_cells=len(planned.cells),
        primary_pair=spec.primary_pair,
        chance_error=chance_error(planned),
        data_name=planned.data.name,
        bayes_error=bayes().error if bayes else None,
        floor=getattr(spec.data, "position_dependence", None) if classifies else None,
        x=spec.x,
        num_validation=spec.num_validation,
        notes=planned.notes,
        executed_flops=planned.executed_flops,
        tier=spec.tier,
        published=spec.published,
        tuning=planned.tuning,
    )


def chance_error(planned: Plan) -> float:
    """Error of guessing: one of the classes, or one of the colours of a patch (8 for every channel)."""
    masked = planned.spec.objective == "masked_patches"
    return 1 - 1 / (8**planned.data.in_channels if masked else planned.data.num_classes)


def few_shot_answers(planned: Plan, store: Store) -> FewShotAnswers | None:
    """The few-shot evaluations of a study so far; None where it declares none."""
    asked = planned.spec.few_shot
    if asked is None or planned.is_tuning:
        return None
    missing = tuple(network.title for network in waiting_networks(planned, store))
    return FewShotAnswers(few_shot_frame(planned, store), missing, asked.shots, asked.draws, planned.spec.vary)


def probe_answers(planned: Plan, store: Store) -> ProbeAnswers | None:
    """What the networks of a study were probed for so far; None where nothing is known."""
    if why_not_probed(planned):
        return None
    frame = probe_frame(planned, store)
    if frame["value"].isna().all():
        return None
    arrays = [
        ProbeArrays(probe, subject.arm, float(subject.sizes[-1]), subject.cell.replicate, subject.weights, found)
        for probe in WITH_ARRAYS
        for subject, found in probe_arrays(planned, store, probe)
        if subject.cell.permutation == planned.spec.rungs[0]
    ]
    return ProbeAnswers(frame, tuple(arrays), planned.spec.x)
