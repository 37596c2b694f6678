"""Starts: which origin is a file, and what a reader is told where both stages draw from the same images."""

from __future__ import annotations

from typing import Any

import pytest
from planned import COLOURED, DIAL, only_cell, planned

from datamodules import parse_data
from studies.cell import Cell
from studies.starts import StageStart, Start, start_notes

LEAK = (
    "Both stages draw from {}: images that are fine-tuned or validated on may have been seen in pretraining; test "
    "images never."
)
OTHER = COLOURED | {"name": "owner/other"}


@pytest.mark.parametrize(("digits", "from_file"), [(64, True), (16, False)])
def test_an_origin_of_64_digits_is_a_file_and_one_of_16_a_cell(digits: int, from_file: bool) -> None:
    start = Start(name="labels", origin="a" * digits, objective="classification", num_pretrain=1, train_flops=1.0)
    assert start.from_file is from_file


def test_a_start_from_a_stage_is_not_from_a_file() -> None:
    stage = StageStart("labels", planned())
    assert not stage.of("vit", "nano", 64, 0).from_file


def note_of(earlier: dict[str, Any], later: dict[str, Any]) -> str:
    """What is told of one arm that begins from a stage on the images `earlier` and is fine-tuned on `later`."""
    data = parse_data(later)
    stage = StageStart("labels", planned(data=parse_data(earlier)))
    start = stage.of("vit", "nano", 64, 0)
    cell: Cell = only_cell(data=data).model_copy(update={"start": start})
    (note,) = start_notes({"labels": stage}, data.describe(), [("vit+labels", cell)])
    return note


def test_real_images_that_both_stages_draw_from_are_told_of() -> None:
    name = parse_data(COLOURED).describe().name
    assert note_of(COLOURED, COLOURED).endswith(LEAK.format(name))


@pytest.mark.parametrize(
    ("earlier", "later"),
    [(DIAL, DIAL), (OTHER, COLOURED), (DIAL | {"seed": 1}, DIAL)],
    ids=["the same procedural images", "other real images", "other procedural images"],
)
def test_images_that_cannot_have_been_seen_before_are_not(earlier: dict[str, Any], later: dict[str, Any]) -> None:
    note = note_of(earlier, later)
    assert note.startswith("vit+labels starts from the weights of labels, trained on 64, 256 images of ")
    assert "Both stages draw" not in note
