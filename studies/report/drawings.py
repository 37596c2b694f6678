"""The figures of a report: which there may be, how each is drawn, and what its caption says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pandas as pd
from matplotlib.figure import Figure

from studies.analysis.crossover import Crossover
from studies.analysis.few_shot_curves import FewShotAnswers
from studies.analysis.fitted_curve import CurveFit
from studies.analysis.ladder import unpermuted
from studies.analysis.multiplier import Multiplier
from studies.analysis.of_records import READ_COLUMNS, Rule, curve_points, records_table, rules_that_differ
from studies.analysis.probe_answers import ProbeAnswers
from studies.analysis.quantity import quantity
from studies.analysis.study import StudyAnswers
from studies.analysis.traits import TRAIT_COLUMNS

from . import answer_figures, course_figures, curve_figures, few_shot_section, ladder_section, probe_section
from .card import StudyCard
from .palette import Look, looks_of
from .trunk_losses import TrunkLosses

BANDS = "Lines: geometric means; bands: 95% t-intervals, from three replicates up; dots: single runs."
CROSSOVER = (
    "Broken line: where the curves of the two arms compared meet; shaded: the 95% confidence set of that place, all "
    "sizes at which the two cannot be told apart; it has no edge where it is open."
)
DRAWN_COLUMNS = frozenset(
    {
        *(*READ_COLUMNS, *TRAIT_COLUMNS, "data", "permutation"),
        *("validation_error", "forward_flops", "num_parameters", "train_flops_exact"),
    }
)
"""Of the table of records, what figures are made from: a process that draws is sent no more."""


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    Attributes:
        every_row: the records of the study so far as a table.
        frame: the rows that curves are of: those of images as they are, where some are permuted.
        card: the study as declared.
        answers: to its questions.
        looks: of every arm.
        few_shot: the few-shot evaluations, where the study declares some.
        probes: what its networks were probed for, where they were.
        losses: of the trunks of its cells.
    """

    every_row: pd.DataFrame
    frame: pd.DataFrame
    card: StudyCard
    answers: StudyAnswers
    looks: Mapping[str, Look]
    few_shot: FewShotAnswers | None = None
    probes: ProbeAnswers | None = None
    losses: TrunkLosses = field(default_factory=TrunkLosses)

    @property
    def names(self) -> dict[str, str]:
        """Labels of the arms, in listing order."""
        return {arm: look.label for arm, look in self.looks.items()}


def material(
    frame: pd.DataFrame,
    card: StudyCard,
    answers: StudyAnswers,
    few_shot: FewShotAnswers | None = None,
    probes: ProbeAnswers | None = None,
    losses: TrunkLosses | None = None,
) -> Material:
    """Everything the parts of a report are made from."""
    traced = TrunkLosses() if losses is None else losses
    return Material(frame, unpermuted(frame), card, answers, looks_of(frame), few_shot, probes, traced)


def drawn_from(of: Material, *, losses: bool = True) -> Material:
    """What the figures need of it, which is little of the tables.

    Args:
        losses: with those of trunks; what figures are made from them is drawn from nothing else.
    """
    columns = [column for column in of.frame.columns if column in DRAWN_COLUMNS]
    traced = of.losses if losses else TrunkLosses()
    return replace(of, every_row=of.every_row[[]], frame=of.frame[columns], losses=traced)


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn, and its caption.

    Attributes:
        draw: gives None where there turns out to be nothing to show.
        caption: its first sentence says what is shown.
        of_losses: it needs the losses of trunks.
        is_long: it takes longer than most others.
    """

    draw: Callable[[], Figure | None]
    caption: str
    of_losses: bool = False
    is_long: bool = False


def drawings(of: Material) -> dict[str, Drawing]:
    """The figures by name.

    Args:
        of: `drawn_from` what a report is made of.
    """
    frame, card, looks, answers = of.frame, of.card, of.looks, of.answers
    found: dict[str, Drawing] = {}
    for rule, of_rule in answers.by_rule.items():
        name = "data_curves" if rule == "selected" else f"data_curves_{rule}"
        text = f"each run at the {curve_figures.RULE_NAMES[rule]}"
        shown = of_rule.crossovers[0] if of_rule.pair is not None else None
        axis = quantity(card.x).axis
        caption = f"Test error against {axis}, {text}. {BANDS}{f' {CROSSOVER}' if shown else ''}"
        found[name] = Drawing(_curves(of, rule, shown), caption)
    if (ladder := answers.ladder) is not None and not ladder.errors.empty:
        found["ladder"] = Drawing(
            lambda: ladder_section.plot_ladder(ladder, looks, card),
            "What each arm loses when it is trained on permuted images. Left: mean test errors; right: factors of the "
            "geometric mean error, paired by replicate. Lines: 95% t-intervals, long where replicates are few.",
        )
    if of.probes is not None:
        for name, (draw, caption) in probe_section.probe_drawings(of.probes, looks, frame).items():
            found[name] = Drawing(draw, caption)
    primary = answers.primary
    if (few_shot := of.few_shot) is not None and few_shot_section.has_figure(few_shot):
        found["few_shot"] = Drawing(
            lambda: few_shot_section.plot_few_shot(few_shot, card),
            f"Test error of ridge regression on frozen features, learnt from {few_shot.shots[-1]:,} images per class. "
            "Lines: means over replicates; bands: their 95% t-intervals, from three replicates up; dots: replicates, "
            "each the mean over its draws; dotted across: the same networks untrained, and chance in grey.",
        )
    if primary is not None:
        if primary.pair is not None and not _told(primary.multipliers[0]).empty:
            of_pair = primary.multipliers[0]
            caption = (
                "Data multiplier of the two arms compared, with 95% intervals where every deletion of a replicate "
                f"reaches the error too. Above 1 {of.names[of_pair.prior]} needs fewer images, below 1 more. Errors "
                "near chance are left out: curves are flat there."
            )
            found["data_multiplier"] = Drawing(lambda: answer_figures.plot_multiplier(of_pair, of.names), caption)
        fits = [fit for fit in primary.fits.values() if isinstance(fit, CurveFit)]
        if fits:
            caption = (
                "Forms fitted to the runs at the branch chosen on validation. Markers: geometric means; thin lines: "
                "the fits, broken where points near chance were left out; bands: their pointwise 95% intervals."
            )
            found["fitted_curves"] = Drawing(lambda: curve_figures.plot_fits(primary, looks, card), caption)
        if any(floor.by_form for floor in primary.floors.values()):
            caption = "Fitted floors with 95% intervals over every form that has one; an extrapolation."
            found["floors"] = Drawing(lambda: answer_figures.plot_floors(primary, looks, card.floor), caption)
    sizes = _sizes_of_several_branches(frame) if card.x == "num_train" else []
    for column, name, text in (
        ("train_flops", "error_against_flops", "training FLOPs"),
        ("train_seconds", "error_against_seconds", "seconds of training (runs packed on one machine)"),
    ):
        if sizes:
            shown_as = "a panel per training size" if len(sizes) > 1 else "bands as in the data curves"
            caption = f"Geometric mean test error of every branch against its {text}, {shown_as}."
            found[name] = Drawing(_cost(frame, column, sizes, looks), caption, is_long=True)
    if primary is not None:
        found["validation_against_test"] = Drawing(
            lambda: course_figures.plot_validation_against_test(frame),
            "Validation error, which chose the branch, against test error; a dot per run. Far from the diagonal, "
            "validation was a poor judge.",
        )
    if of.losses:
        found["training_loss"] = Drawing(
            lambda: _training_loss(of),
            "Training loss of the trunk, before any cooldown; mean over replicates.",
            of_losses=True,
            is_long=True,
        )
    if not curve_points(frame, "full_budget").empty:
        found["cost"] = Drawing(
            lambda: course_figures.plot_cost(frame),
            "What equal nominal FLOPs leave unequal. Seconds are of packed runs, not a measurement of speed.",
        )
    return found


def _told(multiplier: Multiplier) -> pd.DataFrame:
    return multiplier.away_from_chance(multiplier.by_x)


def _curves(of: Material, rule: Rule, shown: Crossover | None) -> Callable[[], Figure]:
    return lambda: curve_figures.plot_curves(of.frame, of.card, rule=rule, crossover=shown)


def _training_loss(of: Material) -> Figure | None:
    losses = of.losses.frame(set(of.frame["cell_id"].unique()))
    return course_figures.plot_training_loss(losses, of.card.x) if len(losses) else None


def _cost(frame: pd.DataFrame, column: str, sizes: list[int], looks: Mapping[str, Look]) -> Callable[[], Figure | None]:
    def draw() -> Figure | None:
        tables = {size: records_table(frame, x=column, num_train=size) for size in sizes}
        several = any(len(curve.x) > 1 for table in tables.values() for curve in table.curves.values())
        return course_figures.plot_error_against_cost(tables, looks) if several else None

    return draw


def _sizes_of_several_branches(frame: pd.DataFrame) -> list[int]:
    """Up to six of the sizes that curves have; none where every cell has a single branch."""
    if len(rules_that_differ(frame)) == 1:
        return []
    return course_figures.at_most(sorted(curve_points(frame)["num_train"].unique().tolist()), course_figures.MAX_PANELS)
