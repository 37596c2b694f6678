"""The locked plan: a hash of all that was declared, and a file that cannot be altered."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from planned import planned

from studies.errors import PlanError
from studies.grid import Plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


def test_an_arm_is_found_for_every_cell() -> None:
    plan = planned(families=("resnet", "resnet-circular"), primary_pair=None)
    assert {plan.arm(cell).name for cell in plan.cells} == {"resnet", "resnet-circular"}
    assert all(plan.arm(cell).variant == cell.variant for cell in plan.cells)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "renamed"},
        {"primary_pair": ("vit", "resnet")},
        {"primary_pair": None},
        {"families": ("vit", "resnet")},
        {"num_train": (64, 128, 256)},
        {"replicates": 3},
        {"recipe": {"learning_rate": {"default": 1e-3, "mlp": 2e-3}}},
    ],
)
def test_what_was_declared_cannot_change_without_the_hash(plan: Plan, changes: dict[str, Any]) -> None:
    other = planned(**changes)
    assert other.hash != plan.hash
    assert other.study_id == f"{other.spec.name}.{other.hash[:8]}"


def test_what_others_published_is_no_part_of_a_study() -> None:
    published = {"source": "a paper", "quantity": "accuracy", "values": {"vit": 0.6}, "columns": ["a"],
                 "rows": {"b": ["vit"]}}  # fmt: skip
    plain, compared = planned(), planned(published=published)
    assert compared.hash == plain.hash
    assert Plan.from_json(compared.to_json()).spec.published == compared.spec.published


def test_a_plan_survives_json(plan: Plan) -> None:
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert (again.hash, [c.id for c in again.cells]) == (plan.hash, [c.id for c in plan.cells])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("cells", 0, "learning_rate"), 0.5),
        (("cells", 3, "seeds", "order"), 9),
        (("cells", 5, "id"), "0" * 16),
        (("spec", "name"), "renamed"),
        (("spec", "primary_pair"), ["vit", "resnet"]),
        (("spec", "question"), "something else?"),
        (("spec", "replicates"), 1),
        (("data", "num_test"), 499),
        (("arms", 0, "num_parameters"), 1),
        (("notes",), ["all is fair"]),
        (("plan_hash",), "0" * 64),
    ],
)
def test_an_altered_plan_is_refused(plan: Plan, path: tuple[str | int, ...], value: object) -> None:
    content: Any = json.loads(json.dumps(plan.to_json()))
    owner = content
    for key in path[:-1]:
        owner = owner[key]
    assert owner[path[-1]] != value
    owner[path[-1]] = value
    with pytest.raises(PlanError, match=f"{re.escape(plan.study_id)} was altered"):
        Plan.from_json(content)


def test_a_plan_that_lost_a_cell_is_refused(plan: Plan) -> None:
    content = json.loads(json.dumps(plan.to_json()))
    del content["cells"][-1]
    with pytest.raises(PlanError, match="was altered"):
        Plan.from_json(content)
