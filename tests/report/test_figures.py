"""The figures: every arm and reference drawn, what is not known not drawn, ticks and labels that can be read."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from report.cards import CARD
from report.synthetic import CURVES, flexible_error, make_record, power_error, prior_error, study_records
from studies.analysis.curve import Curve
from studies.analysis.inversion import Stretch
from studies.analysis.of_records import records_table
from studies.analysis.study import analyse_study
from studies.analysis.table import Columns, CurveTable
from studies.records import Record, records_frame
from studies.report import course_figures, curve_figures
from studies.report.answer_figures import plot_floors, plot_multiplier
from studies.report.axes import end_labels, error_axis, new_figure, png_bytes, print_style, spread_apart, svg_bytes
from studies.report.course_figures import plot_error_against_cost, plot_validation_against_test
from studies.report.curve_figures import plot_curves, plot_fits
from studies.report.palette import FAMILY_LOOKS, arm_looks, looks_of, size_label, size_labels

CROSSING = {"resnet": prior_error, "vit": flexible_error}


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return study_records(replicates=3)


def test_palette_is_one_colour_per_family() -> None:
    assert len({look.colour for look in FAMILY_LOOKS.values()}) == 6
    assert len({look.marker for look in FAMILY_LOOKS.values()}) == 6
    looks = arm_looks({"resnet-circular": "resnet", "timm:convnext": "timm:convnext", "resnet": "resnet", "vit": "vit"})
    assert list(looks) == ["vit", "resnet", "resnet-circular", "timm:convnext"]
    assert looks["resnet-circular"].colour == looks["resnet"].colour
    assert looks["resnet-circular"].line != looks["resnet"].line
    assert looks["resnet-circular"].label == "ResNet (circular)"
    assert looks["timm:convnext"].colour not in {look.colour for look in FAMILY_LOOKS.values()}


def test_many_forms_of_one_family_have_looks_of_their_own() -> None:
    arms = ["vit", *(f"vit-form{index:02}" for index in range(20)), "resnet"]
    looks = arm_looks({arm: arm.partition("-")[0] for arm in arms})
    drawn = {(look.colour, look.marker, look.line, look.open) for look in looks.values()}
    assert len(drawn) == len(arms)
    assert looks["vit"] == FAMILY_LOOKS["vit"]
    of_vit = {look.colour for arm, look in looks.items() if arm != "resnet"}
    assert FAMILY_LOOKS["resnet"].colour not in of_vit
    assert len(of_vit) == 10


def test_labels_tell_what_the_name_of_an_arm_tells() -> None:
    families = {"vit": "vit", "vit@tiny-cls+masked": "vit", "timm:a-b+s": "timm:a-b", "ViT-B/16": "ViT-B/16"}
    labels = [look.label for look in arm_looks(families).values()]
    assert labels == ["ViT", "ViT (tiny, cls, from masked)", "ViT-B/16", "timm:a-b (from s)"]
    tiers = {"vit": "nano", "vit@tiny": "tiny"}
    assert arm_looks(dict.fromkeys(tiers, "vit"), tiers)["vit"].label == "ViT (nano)"


def test_size_labels() -> None:
    assert [size_label(n) for n in (128, 512, 2048, 2000, 1448, 32768, 50000)] == [
        "128", "512", "2k", "2k", "1.45k", "32k", "50k",
    ]  # fmt: skip
    assert size_labels([2000, 2048]) == ["2,000", "2,048"]


def test_a_line_that_leaves_the_axes_has_its_name_too() -> None:
    """As a fitted curve that ends below all that was measured."""
    figure = new_figure(4, 3)
    axes = figure.add_subplot()
    axes.set_yscale("log")
    axes.set_ylim(0.01, 1)
    end_labels(axes, [(1.0, 0.1, "inside", "black"), (1.0, 1e-4, "below", "black"), (1.0, 5.0, "above", "black")])
    svg = svg_bytes(figure).decode()
    assert all(f"<!-- {name} -->" in svg for name in ("inside", "below", "above"))


def test_labels_are_moved_apart_and_keep_their_order() -> None:
    placed = spread_apart([0.1, 0.5, 0.5, 0.51, 0.9], 0.1)
    assert placed == sorted(placed)
    assert min(b - a for a, b in itertools.pairwise(placed)) == pytest.approx(0.1)
    assert (placed[0], placed[-1]) == (0.1, 0.9)


@pytest.mark.parametrize("errors", [(0.11, 0.18), (0.3, 0.31), (0.5, 0.9), (0.0002, 0.4), (0.001, 0.0011)])
def test_error_axes_always_have_ticks_within_their_limits(errors: tuple[float, float]) -> None:
    with print_style():
        axes = new_figure(3, 3).add_subplot()
        error_axis(axes, errors)
    low, high = axes.get_ylim()
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high * 1.001]
    assert 3 <= len(ticks) <= 16
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(set(labels)) == len(labels)


def test_curve_figure_draws_every_arm_and_reference(records: list[Record]) -> None:
    axes = plot_curves(records_frame(records), CARD).axes[0]
    texts = {text.get_text() for text in axes.texts}
    assert {FAMILY_LOOKS[family].label for family in CURVES} <= texts
    assert "λ = 8.16%, floor of translation invariance" in texts
    assert [label.get_text() for label in axes.get_xticklabels()] == ["128", "512", "2k", "8k"]


def test_two_replicates_have_no_band(records: list[Record]) -> None:
    two = [record for record in records if record.cell["replicate"] < 2]
    for rows, drawn in ((records, True), (two, False)):
        bands = plot_curves(records_frame(rows)).axes[0].collections[::3]
        assert all(bool(len(band.get_paths())) == drawn for band in bands)


def test_the_crossover_is_marked_with_its_set_and_open_ends() -> None:
    frame = records_frame(study_records(CROSSING, sizes=(100, 140, 250, 800), replicates=5, noise=0.01))
    primary = analyse_study(frame, pair=("resnet", "vit"), chance=0.5).primary
    assert primary is not None
    crossover = primary.crossovers[0]
    assert crossover.decision == "crosses"
    axes = plot_curves(frame, crossover=crossover).axes[0]
    (stretch,) = crossover.confidence_set or ()
    (span,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert (span.get_x(), span.get_x() + span.get_width()) == pytest.approx((stretch.low, stretch.high))
    lines = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert sorted(lines) == pytest.approx([stretch.low, crossover.roots[0].x, stretch.high])
    assert any(text.get_text() == f"N* = {crossover.roots[0].x:.0f}" for text in axes.texts)
    opened = dataclasses.replace(
        crossover, confidence_set=(Stretch(stretch.low, 800.0, False, True),), decision="not resolved"
    )
    axes = plot_curves(frame, crossover=opened).axes[0]
    (span,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert (span.get_x(), span.get_x() + span.get_width()) == pytest.approx((stretch.low, axes.get_xlim()[1]))
    lines = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert sorted(lines) == pytest.approx([stretch.low, crossover.roots[0].x])  # no edge at the open end
    assert any("not resolved" in text.get_text() for text in axes.texts)


def test_fits_are_drawn_over_the_means_they_were_fitted_to(records: list[Record]) -> None:
    frame = records_frame(records)
    primary = analyse_study(frame, pair=("resnet", "vit"), chance=0.5).primary
    assert primary is not None
    axes = plot_fits(primary, looks_of(frame), CARD).axes[0]
    drawn = [line for line in axes.lines if len(line.get_xdata()) > 100]
    assert len(drawn) == 2 * len(CURVES)  # a solid part and a broken one each
    fit = primary.fits["resnet"]
    values = [line.get_ydata() for line in drawn if line.get_color() == FAMILY_LOOKS["resnet"].colour]
    x = np.asarray(drawn[0].get_xdata())
    assert np.nanmax(np.abs(np.nansum(values, axis=0) - fit.predict(x))) < 1e-12
    assert len(axes.collections) == 2 * len(CURVES)  # a band and the markers each


def test_the_multiplier_has_a_line_at_one_and_intervals_where_they_are_known(records: list[Record]) -> None:
    primary = analyse_study(records_frame(records), pair=("resnet", "vit"), chance=0.5).primary
    assert primary is not None
    answer = primary.multipliers[0]
    figure = plot_multiplier(answer, {"resnet": "ResNet", "vit": "ViT"})
    for panel in figure.axes:
        assert panel.get_yscale() == "log"
        assert any(list(line.get_ydata()) == [1, 1] for line in panel.lines)
    points, bars = figure.axes[0].collections
    assert len(points.get_offsets()) == answer.by_x["multiplier"].notna().sum()
    assert len(bars.get_segments()) == answer.by_x["low"].notna().sum()


def test_floors_stand_against_lambda(records: list[Record]) -> None:
    frame = records_frame(records)
    primary = analyse_study(frame, pair=("resnet", "vit"), chance=0.5).primary
    assert primary is not None
    axes = plot_floors(primary, looks_of(frame), 0.06).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        FAMILY_LOOKS[name].label for name in CURVES if primary.floors[name].by_form
    ]
    assert any(list(line.get_xdata()) == [6, 6] for line in axes.lines)
    without = plot_floors(primary, looks_of(frame), None).axes[0]
    assert len(without.lines) == len(axes.lines) - 1


def test_branches_are_drawn_at_what_they_cost(records: list[Record]) -> None:
    frame = records_frame(records)
    for column in ("train_flops", "train_seconds"):
        tables = {size: records_table(frame, x=column, num_train=size) for size in (128, 8192)}
        figure = plot_error_against_cost(tables, looks_of(frame))
        assert [panel.get_title("left") for panel in figure.axes] == ["N = 128", "N = 8,192"]
        curve = tables[128].curves["vit"]
        line = next(line for line in figure.axes[0].lines if line.get_label() == "ViT")
        assert np.asarray(line.get_xdata()) == pytest.approx(curve.x)
        assert np.asarray(line.get_ydata()) == pytest.approx(np.exp(curve.mean))


def test_png_and_svg_do_not_depend_on_being_saved_before(records: list[Record]) -> None:
    frame = records_frame(records)
    first, second = (plot_curves(frame, CARD) for _ in range(2))
    assert (svg_bytes(first), png_bytes(first)) == (svg_bytes(second), png_bytes(second))
    assert svg_bytes(first) == svg_bytes(second)


@pytest.mark.parametrize("errors", [[0.2, 0.3], [0.0005, 0.0004]])
def test_one_replicate_at_two_sizes_can_be_drawn(errors: list[float]) -> None:
    records = [make_record("vit", num_train=size, error=error) for size, error in zip((128, 512), errors, strict=True)]
    records += [make_record("resnet", num_train=size, error=0.25) for size in (128, 512)]
    frame = records_frame(records)
    primary = analyse_study(frame, pair=("resnet", "vit"), chance=0.5).primary
    assert primary is not None
    axes = plot_curves(frame, CARD, crossover=primary.crossovers[0]).axes[0]
    assert not [patch for patch in axes.patches if isinstance(patch, Rectangle)]  # nothing is known of the interval
    plot_fits(primary, looks_of(frame), CARD)
    if primary.multipliers[0].by_x["multiplier"].notna().any():
        plot_multiplier(primary.multipliers[0], {"resnet": "ResNet", "vit": "ViT"})


def test_a_ratio_that_explodes_does_not_flatten_the_others() -> None:
    curves = {"resnet": power_error(1.0, 0.2), "vit": power_error(4.2, 0.5)}
    primary = analyse_study(records_frame(study_records(curves, replicates=2, noise=0.3)), chance=0.5).primary
    assert primary is not None
    answer = primary.multipliers[0]
    wide = answer.by_x.assign(high=1e40)
    figure = plot_multiplier(dataclasses.replace(answer, by_x=wide), {"resnet": "ResNet", "vit": "ViT"})
    assert math.log10(figure.axes[0].get_ylim()[1]) <= 3


def test_a_single_panel_has_bands_from_three_replicates_up() -> None:
    """Of three runs whose logs are -2, -1 and 0 the band reaches 4.303 / sqrt(3) either side of -1."""
    at = np.log([0.1, 0.2])

    def drawn(log_error: np.ndarray, panels: int) -> list[tuple[float, float]]:
        replicates = tuple(str(row) for row in range(len(log_error)))
        curve = Curve("vit", "train_flops", np.array([1e9, 2e9]), log_error, replicates)
        table = CurveTable(Columns(x="train_flops"), {"vit": curve}, left_out=(), notes=())
        figure = plot_error_against_cost(dict.fromkeys(range(100, 100 + panels), table), arm_looks({"vit": "vit"}))
        paths = [path.vertices for band in figure.axes[0].collections for path in band.get_paths()]
        return [(float(path[:, 1].min()), float(path[:, 1].max())) for path in paths if len(path)]

    spread = at + np.array([[-1.0], [0.0], [1.0]])
    ((low, high),) = drawn(spread, panels=1)
    half = math.exp(4.302652730 / math.sqrt(3))
    assert (low, high) == pytest.approx((0.1 / half, 0.2 * half), rel=1e-6)
    assert drawn(spread, panels=2) == []
    assert drawn(spread[:2], panels=1) == []


def test_dots_by_the_thousand_are_one_image_per_arm(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    frame = records_frame(records)
    for module in (course_figures, curve_figures):
        monkeypatch.setattr(module, "MANY_DOTS", len(records) - 1)
    for draw in (plot_curves, plot_validation_against_test):
        assert b"<image" in svg_bytes(draw(frame))
    for module in (course_figures, curve_figures):
        monkeypatch.setattr(module, "MANY_DOTS", len(records))
    for draw in (plot_curves, plot_validation_against_test):
        assert b"<image" not in svg_bytes(draw(frame))
