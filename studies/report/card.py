"""What a report says of its study besides the records."""

from __future__ import annotations

from dataclasses import dataclass

from studies.published import Published
from studies.tuned import Citation


@dataclass(frozen=True)
class StudyCard:
    """The study as declared.

    Attributes:
        name: name of the study.
        study_id: name and short plan hash; the group of its W&B runs.
        question: what the study asks, in a sentence.
        plan_hash: hash of the locked plan.
        protocol_version: version of the protocol it was planned under.
        num_cells: cells planned.
        primary_pair: the two arms whose crossing is the question, the stronger prior first; None if there is no such
            pair.
        chance_error: test error of guessing.
        data_name: name of the data set.
        bayes_error: smallest error any model can reach, where it is known.
        floor: lambda of the dial, the smallest error of an exactly translation-invariant model; None where there is
            none.
        num_validation: validation images V.
        notes: deviations from the plan and other remarks the report must carry.
        executed_flops: training FLOPs of all cells planned; 0 where unknown.
        tuning: the finished tuning the study took its learning rates and weight decays from.
        tier: the study's, which the names of its arms do not mention; None where it is not known.
        published: numbers from a paper to show beside the study's own.
        x: what its curves run over.
        num_damaged: cells whose records are there but cannot be read.
    """

    name: str
    study_id: str
    question: str
    plan_hash: str
    protocol_version: str
    num_cells: int
    primary_pair: tuple[str, str] | None
    chance_error: float
    data_name: str
    bayes_error: float | None
    floor: float | None
    num_validation: int
    notes: tuple[str, ...] = ()
    executed_flops: int = 0
    tuning: Citation | None = None
    tier: str | None = None
    published: Published | None = None
    x: str = "num_train"
    num_damaged: int = 0
