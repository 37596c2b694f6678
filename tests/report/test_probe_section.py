"""What probes measured, in a report: every figure shows its numbers, and none is drawn of nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from report.cards import CARD
from report.probed import ARMS, SIZES, probe_answers
from report.synthetic import CURVES, study_records
from studies.analysis.probe_answers import ProbeAnswers, probe_curve, training_change
from studies.records import records_frame
from studies.report.layer_names import named_layers
from studies.report.page import render_page
from studies.report.palette import looks_of
from studies.report.probe_figures import plot_attention_distance, plot_equivariance, plot_shift_consistency
from studies.report.probe_maps import (
    plot_position_similarity,
    plot_receptive_fields,
    plot_similarity_across_sizes,
)
from studies.report.probe_section import FIGURES, probe_drawings, probe_tables
from studies.report.write import write_report

RECORDS = study_records({arm: CURVES[arm] for arm in ARMS})
FRAME = records_frame(RECORDS, "nano")
LOOKS = looks_of(FRAME)


@pytest.fixture(scope="module")
def probes() -> ProbeAnswers:
    return probe_answers()


def test_heads_are_no_replicates(probes: ProbeAnswers) -> None:
    readings = probes.of("attention_distance")
    curve = probe_curve(readings, ["size"])
    assert set(curve["num_replicates"]) == {3}
    one = readings[(readings["size"] == 128) & (readings["weights"] == "trained")]
    means = one.groupby("replicate")["value"].mean()
    row = curve[(curve["size"] == 128) & (curve["weights"] == "trained")].iloc[0]
    assert row["mean"] == pytest.approx(means.mean())
    assert row["half_width"] == pytest.approx(4.302653 * means.std(ddof=1) / 3**0.5, rel=1e-5)


def test_a_change_is_paired_by_replicate(probes: ProbeAnswers) -> None:
    readings = probes.of("attention_distance")
    shifted = readings.assign(value=readings["value"] + 100 * readings["replicate"])
    for found in (training_change(readings), training_change(shifted)):
        assert found["change"].to_numpy() == pytest.approx(np.full(len(SIZES), -3.0), abs=0.02)
        assert (found["change_half_width"] < 0.1).all(), "what replicates share is no part of the change"
    lacking = readings[~((readings["weights"] == "initial") & (readings["replicate"] == 0))]
    fewer = training_change(lacking)
    assert fewer["change"].to_numpy() == pytest.approx(np.full(len(SIZES), -3.0), abs=0.02)
    assert fewer["change_half_width"].isna().all(), "two pairs are too few for an interval"


def test_a_change_is_over_what_both_networks_were_read_at(probes: ProbeAnswers) -> None:
    """Trained networks have an error at the logits; before training these are constant, and nothing is read there."""
    found = training_change(probes.of("equivariance_error")).set_index(["arm", "size"])
    features = 0.2 + 40 / SIZES[-1] - 2 * 0.2
    assert found.loc[("resnet", SIZES[-1]), "change"] == pytest.approx((4 * -0.1 + features) / 5, abs=0.02)
    of_trained_alone = training_change(probes.of("roll_consistency"))
    assert of_trained_alone["trained"].notna().all()
    assert of_trained_alone["change"].isna().all()


def test_permuted_and_undefined_readings_are_not_shown(probes: ProbeAnswers) -> None:
    permuted = probes.frame.assign(permutation="pixels", value=99.0)
    broken = probes.frame.assign(value=np.nan)
    both = ProbeAnswers(pd.concat([probes.frame, permuted, broken], ignore_index=True))
    assert len(both.shown) == len(probes.shown)
    assert both.shown["value"].max() < 99


def test_attention_has_a_dot_per_head_and_its_uniform_distance(probes: ProbeAnswers) -> None:
    (axes,) = plot_attention_distance(probes, LOOKS).axes
    dots = [len(of.get_offsets()) for of in axes.collections]
    assert dots == [3 * 3 * 2, 3 * 3 * 2], "replicates, layers, heads; before training and after"
    assert any(np.allclose(line.get_ydata(), 8.2) for line in axes.get_lines())


def test_attention_has_one_axis_from_zero_to_the_farthest_patch(probes: ProbeAnswers) -> None:
    """Two arms, of which the second looks three times as far: the first panel must not fix the scale of both."""
    far = probes.frame[probes.frame["arm"] == "vit"].assign(arm="resnet")
    far = far.assign(value=far["value"].where(far["quantity"] != "attention_distance", 3 * far["value"]))
    both = ProbeAnswers(pd.concat([probes.frame, far], ignore_index=True), probes.arrays)
    panels = plot_attention_distance(both, LOOKS).axes
    assert len(panels) == 2
    for axes in panels:
        low, high = axes.get_ylim()
        assert low == 0
        assert high > 3 * 8.5
    (lines,) = ([np.asarray(line.get_ydata()) for line in axes.get_lines()] for axes in panels
                if axes.get_title(loc="left") == "ViT")  # fmt: skip
    assert any(np.allclose(line, 13.1) for line in lines), "the distance of attention to the farthest patch alone"


def test_results_that_do_not_say_the_farthest_patch_have_no_line_of_it(probes: ProbeAnswers) -> None:
    def labels_of(answers: ProbeAnswers) -> set[str]:
        (legend,) = plot_attention_distance(answers, LOOKS).legends
        return {text.get_text() for text in legend.get_texts()}

    older = tuple(
        dataclasses.replace(one, arrays={name: array for name, array in one.arrays.items() if "largest" not in name})
        for one in probes.arrays
    )
    assert labels_of(probes) - labels_of(ProbeAnswers(probes.frame, older)) == {"the farthest patch alone"}


def test_equivariance_has_one_scale_and_its_unit(probes: ProbeAnswers) -> None:
    panels = plot_equivariance(probes, LOOKS, FRAME).axes
    assert panels[0].get_ylabel() == "translation equivariance error per pixel"
    (scale,) = {axes.get_ylim() for axes in panels}
    assert scale[0] == 0
    assert scale[1] > 1.6, "the largest error of any panel"
    assert all(axes.yaxis.get_major_ticks()[0].label1.get_visible() for axes in panels), "each has its numbers"


def test_receptive_fields_say_their_layer_and_their_scale(probes: ProbeAnswers) -> None:
    *maps, bar = plot_receptive_fields(probes, LOOKS).axes
    assert [axes.get_title() for axes in maps[:5]] == [
        "before the blocks", "after block 1 of 3", "after block 2 of 3", "after block 3 of 3", "features"
    ]  # fmt: skip
    assert [axes.get_xlabel() for axes in maps[:5]] == ["patch_embed", "blocks.0", "blocks.1", "blocks.2", ""]
    assert bar.get_ylabel() == "√ gradient, brightest pixel of a map 1"
    field = next(one for one in probes.arrays if one.probe == "receptive_field" and one.arm == "vit").arrays["features"]
    shown = maps[4].images[0].get_array()
    assert np.asarray(shown) == pytest.approx(np.sqrt(field / field.max())), "the root of it, as the scale says"
    assert bar.get_ylim() == (0, 1)


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["layer1", "layer2", "features"], ["after layer 1 of 2", "after layer 2 of 2", "features"]),
        (["encoder.layers.0", "encoder.layers.1", "ln"],
         ["after block 1 of 2", "after block 2 of 2", "behind the blocks"]),
        (["stages.0.blocks.0", "stages.1.blocks.0"], ["after block 1 of 2", "after block 2 of 2"]),
        (["stem", "stages.0.blocks.0", "stages.1.downsample", "stages.1.blocks.0", "norm"],
         ["before the blocks", "after block 1 of 2", "between the blocks", "after block 2 of 2", "behind the blocks"]),
        (["layers.0.blocks.0", "layers.1.downsample", "layers.1.blocks.0", "layers.2.downsample", "layers.2.blocks.0"],
         ["after block 1 of 3", "between the blocks, 1 of 2", "after block 2 of 3", "between the blocks, 2 of 2",
          "after block 3 of 3"]),
        (["stem", "proj", "blocks.0", "norm"],
         ["before the blocks, 1 of 2", "before the blocks, 2 of 2", "after block 1 of 1", "behind the blocks"]),
    ],
)  # fmt: skip
def test_a_layer_is_told_by_its_place(names: list[str], places: list[str]) -> None:
    assert [layer.place for layer in named_layers(names)] == places


def test_the_path_of_a_deep_module_is_cut_at_its_beginning() -> None:
    (layer,) = named_layers(["network.patch_embed.backbone.stage1.0"])
    assert layer.path == "…embed.backbone.stage1.0"


def test_equivariance_is_shown_by_depth_size_and_error(probes: ProbeAnswers) -> None:
    left, middle, right = plot_equivariance(probes, LOOKS, FRAME).axes
    places = [line.get_xdata() for line in left.get_lines()]
    assert all(min(x) == 0 for x in places)
    assert max(max(x) for x in places) == 1
    trained = [line for line in middle.get_lines() if len(line.get_xdata()) == len(SIZES)]
    assert len(trained) == len(ARMS)
    dots = sum(len(of.get_offsets()) for of in right.collections)
    assert dots == len(ARMS) * len(SIZES) * 3, "a dot per trained network"


def test_networks_pretrained_on_no_images_are_a_level_line(probes: ProbeAnswers) -> None:
    frame = probes.frame.assign(num_pretrain=probes.frame["num_train"].where(probes.frame["arm"] == "vit", 0))
    middle = plot_equivariance(ProbeAnswers(frame, x="num_pretrain"), LOOKS, FRAME).axes[1]
    scratch = frame[(frame["arm"] == "resnet") & (frame["layer"] == "features") & (frame["weights"] == "trained")]
    error = scratch.loc[scratch["quantity"] == "equivariance_error"].groupby("replicate")["value"].mean().mean()
    levels = [line.get_ydata()[0] for line in middle.get_lines() if len(set(line.get_ydata())) == 1]
    assert any(level == pytest.approx(error) for level in levels)
    assert middle.get_xlim() == pytest.approx((SIZES[0] / 1.15, SIZES[-1] * 1.15))


def test_shifts_and_similarities_have_their_values(probes: ProbeAnswers) -> None:
    roll, _ = plot_shift_consistency(probes, LOOKS).axes
    assert [list(line.get_xdata()) for line in roll.get_lines() if len(line.get_xdata()) == 4] == [[1, 2, 3, 4]] * 2
    panels = plot_similarity_across_sizes(probes, LOOKS).axes
    matrix = panels[0].images[0].get_array()
    assert np.diagonal(matrix).tolist() == [1.0] * 4
    assert matrix[0, 3] == pytest.approx(1 / (1 + 6 / 4), abs=0.02)
    for axes in panels[:2]:
        ticks = [*axes.xaxis.get_major_ticks(), *axes.yaxis.get_major_ticks()]
        assert {tick.tick1line.get_markersize() for tick in ticks} == {0}, "a square has no point to mark"
    assert panels[-1].get_ylabel() == "CKA"


def test_position_similarity_is_laid_out_as_the_patches_lie(probes: ProbeAnswers) -> None:
    figure = plot_position_similarity(probes, LOOKS)
    assert figure.axes[-1].get_ylabel() == "cosine similarity"
    picture = figure.axes[1].images[0].get_array()
    assert picture.shape == (4 * 5 - 1, 4 * 5 - 1)
    for row in range(4):
        for column in range(4):
            own = picture[5 * row : 5 * row + 4, 5 * column : 5 * column + 4]
            assert np.unravel_index(np.argmax(own), own.shape) == (row, column), "a place is most like itself"


def test_the_table_tells_before_after_and_change(probes: ProbeAnswers) -> None:
    (table,) = probe_tables(probes, LOOKS)
    rows = {(row[0], row[1]): row for row in table.rows}
    attention = rows["mean attention distance (px)", "ViT"]
    before, after, change = (float(text.split(" ± ")[0].replace("−", "-")) for text in attention[3:6])
    assert (before, after, change) == (
        pytest.approx(8.3, abs=0.02), pytest.approx(5.3, abs=0.02), pytest.approx(-3.0, abs=0.02)
    )  # fmt: skip
    consistency = next(row for row in table.rows if row[0].startswith("circular shift consistency"))
    assert (consistency[3], consistency[5]) == ("–", "–"), "untrained networks have none"
    assert table.columns[2] == "Training images N"


def test_the_table_fits_on_a_page(probes: ProbeAnswers) -> None:
    (table,) = probe_tables(probes, LOOKS)
    assert max(len(row[0]) for row in table.rows) <= 45
    assert '<table class="wrapped">' in table.html(), "labels of arms may be long"
    style = render_page(CARD, "", (), ())
    assert ".wrapped td.label { white-space: normal; }" in style


def test_without_readings_nothing_is_drawn(probes: ProbeAnswers) -> None:
    empty = ProbeAnswers(probes.frame[:0])
    assert probe_drawings(empty, LOOKS, FRAME) == {}
    assert probe_tables(empty, LOOKS) == []
    partial = ProbeAnswers(probes.frame[probes.frame["probe"] == "patch_shuffle"])
    assert list(probe_drawings(partial, LOOKS, FRAME)) == ["patch_shuffle"]


def test_a_report_has_the_section_and_every_figure(probes: ProbeAnswers, tmp_path: Path) -> None:
    card = dataclasses.replace(CARD, num_cells=len(RECORDS), tier="nano")
    paths = write_report(RECORDS, card, tmp_path, probes=probes)
    assert {path.stem for path in paths.figures} >= set(FIGURES)
    assert {path.suffix for path in paths.figures} == {".png", ".svg"}
    assert "Why: what the networks assume" in paths.page.read_text()
    quantities = json.loads(paths.answers.read_text())["probes"]["quantities"]
    assert {row["arm"] for row in quantities["equivariance_error"]} == set(ARMS)
