"""A cell: its cost, and an identity that changes when results may and not otherwise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from planned import COLOURED, FORWARD_FLOPS, only_cell, planned

from datamodules import DialData, parse_data
from studies.cell import Cell, Seeds
from studies.starts import Start

RELEVANT = {
    "family": {"families": ("resnet",)},
    "form": {"families": ("vit-sinusoidal",)},
    "tier": {"tier": "tiny"},
    "data seed": {"data": parse_data(DialData(num_train=2_000, num_test=500, seed=1).model_dump())},
    "test size": {"data": parse_data(DialData(num_train=2_000, num_test=501).model_dump())},
    "pool size": {"data": parse_data(DialData(num_train=2_001, num_test=500).model_dump())},
    "train size": {"num_train": (65,)},
    "validation size": {"num_validation": 101},
    "seed": {"seed": 1},
    "steps": {"budget": {"steps": 120, "batch_size": 32}},
    "batch": {"budget": {"steps": 80, "batch_size": 33}},
    "branches": {"budget": {"steps": 80, "batch_size": 32, "branches": (0.5, 1.0)}},
    "warm-up": {"budget": {"steps": 80, "batch_size": 32, "warmup_fraction": 0.02}},
    "cooldown": {"budget": {"steps": 80, "batch_size": 32, "cooldown_fraction": 0.4}},
    "learning rate": {"recipe": {"learning_rate": 2e-3}},
    "weight decay": {"recipe": {"weight_decay": 0.1}},
    "label smoothing": {"recipe": {"label_smoothing": 0.1}},
    "precision": {"recipe": {"precision": "bf16"}},
    "permutation": {"permutation": "pixels"},
}


def test_a_cell_costs_three_forwards_per_image_and_its_branches_add_their_cooldowns() -> None:
    plan = planned()
    for cell in plan.cells:
        assert 40 * cell.executed_steps == 47 * cell.steps  # 1.175
        assert 40 * cell.executed_flops == 47 * 3 * FORWARD_FLOPS[cell.family] * 32 * 80
    assert plan.executed_flops == sum(3 * cell.forward_flops * 32 * 94 for cell in plan.cells)


def test_each_thing_that_can_change_a_result_changes_the_id() -> None:
    ids = {name: only_cell(**changes).id for name, changes in RELEVANT.items()} | {"nothing": only_cell().id}
    assert len(set(ids.values())) == len(ids), ids
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in ids.values())


def test_augmentation_changes_the_id() -> None:
    data = parse_data(COLOURED)
    found = {only_cell(data=data, recipe={"augmentation": chosen}).id for chosen in ((), ("crop",), ("crop", "flip"))}
    assert len(found) == 3


def test_every_field_of_a_cell_but_its_labels_enters_the_id() -> None:
    cell = only_cell()
    for field, value in cell.model_dump().items():
        if field == "seeds":
            for kind in Seeds.model_fields:
                seeds = cell.seeds.model_copy(update={kind: 99})
                assert cell.model_copy(update={"seeds": seeds}).model_copy().id != cell.id, kind
            continue
        others = {str: f"{value}x", int: 99, float: 0.777, tuple: (1.0,), bool: False, type(None): 99}
        changed: Any = others[type(value)]
        if field == "start":
            changed = Start(name="a", origin="b", objective="classification", num_pretrain=1, train_flops=1.0)
        if field == "augmentation":
            changed = ("flip",)
        other = Cell.model_construct(**(dict(cell) | {field: changed}))
        assert (other.id == cell.id) == (field in ("data", "replicate")), field


def test_names_do_not_change_the_id() -> None:
    same = only_cell()
    assert only_cell(name="other", question="else?", cost="little").id == same.id
    assert only_cell(families=("vit", "mlp")).id == same.id
    # replicate 1 of seed 0 is replicate 0 of seed 1: the same training
    second = next(cell for cell in planned(families=("vit",), primary_pair=None, replicates=2).cells if cell.replicate)
    assert second.id == only_cell(seed=1).id


def test_where_the_data_lie_and_what_they_are_called_does_not_change_the_id(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    content = {
        "train_images": generator.integers(0, 256, (300, 16, 16), dtype=np.uint8),
        "train_labels": np.arange(300) % 2,
        "test_images": generator.integers(0, 256, (50, 16, 16), dtype=np.uint8),
        "test_labels": np.arange(50) % 2,
    }
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "set.npz", **content)
    here, there = (
        only_cell(data=parse_data({"kind": "arrays", "archive": tmp_path / name / "set.npz", "label": name}))
        for name in ("here", "there")
    )
    assert (here.data, there.data) == ("here", "there")
    assert here.id == there.id
    content["train_images"][0, 0, 0] ^= 1
    np.savez(tmp_path / "there" / "set.npz", **content)
    assert only_cell(data=parse_data({"kind": "arrays", "archive": tmp_path / "there" / "set.npz"})).id != here.id
