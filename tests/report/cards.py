"""A study as declared, to go with the records of `synthetic`."""

from __future__ import annotations

from studies.report import StudyCard

CARD = StudyCard(
    name="data_scaling",
    study_id="data_scaling.0011aabb",
    question="Does a ViT overtake a ResNet where the signal depends on <position>?",
    plan_hash="0011aabb" * 8,
    protocol_version="1",
    num_cells=48,
    primary_pair=("resnet", "vit"),
    chance_error=0.5,
    data_name="dial",
    bayes_error=0.0005,
    floor=4 / 49,
    num_validation=2000,
    notes=("Learning rates were not tuned.",),
)
