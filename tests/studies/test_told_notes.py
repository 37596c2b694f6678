"""Notes in plain words: the wording that is hashed with the plan stays, what is read is English."""

from __future__ import annotations

import dataclasses

from planned import make_arms, make_spec, planned

from studies.planning import make_plan
from studies.told_notes import told_notes


def test_short_branches_are_told_in_plain_words() -> None:
    plan = planned(num_train=(64, 640))
    assert any("fewer images than N once" in note for note in plan.notes)
    told = told_notes(plan)
    assert "Branches that end before each of the N images was seen once: 0.125 C at N=640." in told
    assert len(told) == len(plan.notes)


def test_starts_are_told_in_plain_words() -> None:
    stage = (
        "vit+labels, mlp+labels begin from labels: classification on 64, 256 images of dial (16 px), replicate r from "
        "replicate r and are applied to images of 32 px. It cost 1e+09 training FLOPs a run, which are no part of any "
        "budget here. Both stages draw from cifar10."
    )
    file = (
        "vit+disk begin from weights trained elsewhere (sha256 00; classification, 64 images of 16 px), the same for "
        "every replicate. What they cost is not known; it is no part of any budget here."
    )
    told = told_notes(dataclasses.replace(planned(), notes=(stage, file, "Another.")))
    assert told == (
        "vit+labels, mlp+labels start from the weights of labels, trained on 64, 256 images of dial (16 px) "
        "(objective: classification); each replicate starts from the same replicate of labels. "
        "The networks are then applied to images of 32 px. "
        "One such training cost 1e+09 training FLOPs, which no budget here includes. Both stages draw from cifar10.",
        "vit+disk starts from weights trained elsewhere (sha256 00; classification, 64 images of 16 px), the same for "
        "every replicate. What they cost is not known.",
        "Another.",
    )


def test_exact_costs_are_told_where_unequal_flops_are_allowed() -> None:
    """The locked notes of such a plan leave them out, and its hash must not move."""
    spec = make_spec(allow_unequal_flops=True)
    arms = make_arms(spec)
    assert not any("Exact training cost" in note for note in told_notes(make_plan(spec, spec.data.describe(), arms)))
    arms["mlp"] = type(arms["mlp"])(**(vars(arms["mlp"]) | {"first_layer_flops": 800_000}))
    plan = make_plan(spec, spec.data.describe(), arms)
    assert not any("Exact training cost" in note for note in plan.notes)
    assert any("Exact training cost" in note and "mlp 2.20" in note for note in told_notes(plan))
