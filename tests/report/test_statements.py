"""The sentences: the answer that the data give, in percent, by the labels of arms, and what they do not say."""

from __future__ import annotations

import dataclasses

import pytest

from report.cards import CARD
from report.synthetic import flexible_error, make_record, power_error, prior_error, study_records
from studies.analysis.study import StudyAnswers, analyse_study
from studies.records import Record, records_frame
from studies.report.reservations import reservation_statements
from studies.report.statements import (
    choice_statements,
    crossover_statements,
    every_statement,
    floor_statements,
    main_statements,
    needed_statement,
)

NAMES = {"vit": "ViT", "resnet": "ResNet", "mixer": "MLP-Mixer", "mlp": "Fully connected"}
FAMILIES = {name: name for name in NAMES}
PAIR = ("resnet", "vit")


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return study_records(replicates=3)


def answered(records: list[Record], pair: tuple[str, str] | None = PAIR) -> StudyAnswers:
    return analyse_study(records_frame(records), pair=pair, chance=0.5)


def test_a_crossover_comes_first_with_its_interval() -> None:
    curves = {"resnet": prior_error, "vit": flexible_error}
    answers = answered(study_records(curves, sizes=(100, 140, 250, 800), replicates=5, noise=0.01))
    first = main_statements(answers, CARD, FAMILIES, NAMES)[0]
    assert first.startswith("ViT overtakes ResNet at 17")
    assert "95% interval" in first


def test_no_crossover_is_said_as_such() -> None:
    apart = {"vit": power_error(4, 0.4), "resnet": power_error(3, 0.4)}
    text, full = crossover_statements(answered(study_records(apart, replicates=3, noise=0.001)), NAMES)
    assert text.startswith("No crossover from 128 to 8,192 images: ResNet is better than ViT at every one of 4 sizes")
    assert full == ("Read at the full budget, instead of at the branch chosen on validation, the answer is the same.")


def test_one_sided_claims_are_told_beside_what_two_sided_tests_say() -> None:
    """Better at both sizes by one-sided tests that have to hold together, significantly so at one by the corrected."""
    offsets, records = (-0.08, 0.0, 0.08), []
    for size, ratio in ((64, 0.4), (256, 0.85)):
        for replicate, offset in enumerate(offsets):
            records.append(make_record("vit", num_train=size, replicate=replicate, error=0.3))
            error = 0.3 * ratio * (1 + offset)
            records.append(make_record("resnet", num_train=size, replicate=replicate, error=error))
    answers = answered(records)
    told = crossover_statements(answers, NAMES)[0]
    assert told == (
        "No crossover from 64 to 256 images: ResNet is better than ViT at every one of 2 sizes (a one-sided test at "
        "each, all of which have to hold; two-sided and corrected by Holm over 2 sizes the difference is significant "
        "at 64 images only)."
    )
    assert (
        "significantly better only with 64 images" in choice_statements(answers.by_rule["selected"].choices, NAMES)[0]
    )


def test_what_is_not_resolved_is_said_as_such() -> None:
    same = {"vit": power_error(3, 0.4), "resnet": power_error(3, 0.4)}
    answers = answered(study_records(same, replicates=3, noise=0.1))
    assert crossover_statements(answers, NAMES)[0].startswith(
        "Whether the curves of ResNet and ViT cross is not resolved: "
    )
    chosen = " ".join(choice_statements(answers.by_rule["selected"].choices, NAMES))
    assert "the data do not separate the best" in chosen


def test_a_bound_that_says_nothing_is_not_told() -> None:
    same = {family: power_error(3, 0.4) for family in NAMES}
    answers = answered(study_records(same, replicates=3, noise=0.1))
    choices = [
        dataclasses.replace(one, probability=p)
        for one, p in zip(answers.by_rule["selected"].choices[:2], (0.0004, 0.31), strict=True)
    ]
    alike = [dataclasses.replace(one, family="vit") for one in choices]
    assert "(probability of being best at least 0, .31)" in choice_statements(alike, NAMES)[0]
    assert "probability" not in choice_statements(choices[:1], NAMES)[0]


def test_the_other_rule_may_answer_differently() -> None:
    """At the branch chosen on validation ResNet leads everywhere; at the full budget ViT does."""
    records = []
    for size, scale in ((128, 1.0), (512, 0.8)):
        for replicate in range(4):
            own = scale * (1 + 0.01 * replicate)
            early = [0.2 * own, 0.3 * own, 0.35 * own, 0.4 * own]
            records.append(make_record("resnet", num_train=size, replicate=replicate, branch_errors=early))
            late = [0.4 * own, 0.35 * own, 0.31 * own, 0.3 * own]
            records.append(make_record("vit", num_train=size, replicate=replicate, branch_errors=late))
    selected, full = crossover_statements(answered(records), NAMES)
    assert "ResNet is better than ViT" in selected
    assert "the answer is this." in full
    assert "ViT is better than ResNet" in full


def test_without_a_pair_all_pairs_are_counted(records: list[Record]) -> None:
    text = crossover_statements(answered(records, None), NAMES)[0]
    assert text.startswith("No pair was declared. Of all 6 pairs, corrected by Holm over them, ")


def test_sure_choices_name_their_probability_and_others_are_not_made() -> None:
    records = []
    for size, ratio in ((128, 0.8), (512, 0.8), (2048, 0.99), (8192, 0.99)):
        for replicate, offset in enumerate((-0.1, -0.05, 0.0, 0.05, 0.1)):
            error = 10 * size**-0.5
            records.append(make_record("vit", num_train=size, replicate=replicate, error=error / 3))
            records.append(
                make_record("resnet", num_train=size, replicate=replicate, error=error / 3 * ratio * (1 + offset))
            )
    answers = answered(records)
    (text,) = choice_statements(answers.by_rule["selected"].choices, NAMES)
    assert text.startswith("What to choose at this budget: with 128 and 512 images ResNet (probability at least .99")
    assert "With 2,048 and 8,192 images the data do not separate the best; the lowest mean errors are" in text
    assert "those of ResNet 7.3%, 3.6% (probability of being best .63, .63)" in text


def test_neighbouring_sizes_become_a_range() -> None:
    sizes = (128, 256, 512, 1024, 2048)
    apart = {"vit": power_error(2, 0.4), "resnet": lambda n: power_error(2, 0.4)(n) * (1.3 if n != 256 else 0.7)}
    answers = answered(study_records(apart, sizes=sizes, replicates=4, noise=0.01))
    (text,) = choice_statements(answers.by_rule["selected"].choices, NAMES)
    assert "with 128 and 512 to 2,048 images ViT" in text
    assert "with 256 images ResNet" in text


def test_a_single_arm_is_described() -> None:
    answers = answered(study_records({"vit": power_error(4, 0.4)}, replicates=2, noise=0))
    assert main_statements(answers, CARD, FAMILIES, NAMES) == [
        "Only ViT was measured; its mean error is 50.0% with 128 images and 10.9% with 8,192 images."
    ]


def test_one_replicate_chooses_nothing() -> None:
    answers = answered(study_records(replicates=1))
    (text,) = choice_statements(answers.by_rule["selected"].choices, NAMES)
    assert text.startswith("Lowest errors, without replicates and therefore without a probability: ")
    assert "ResNet with 128 images" in text


def test_images_needed_are_said_in_percent(records: list[Record]) -> None:
    of = answered(records).by_rule["selected"]
    said = {(one.family, one.error): needed_statement(one, NAMES) for one in of.needed}
    for one in of.needed:
        text = said[one.family, one.error]
        assert ("does not reach" in text) == (one.error < one.lowest)
        assert ("is below" in text) == (one.error > one.highest)
    assert any("does not reach" in text for text in said.values())
    for (family, error), text in said.items():
        assert f"a test error of {100 * error:g}%" in text
        assert NAMES[family] in text


def test_the_floor_is_held_against_lambda(records: list[Record]) -> None:
    of = answered(records).by_rule["selected"]
    (text,) = floor_statements(of, CARD, FAMILIES, NAMES)
    assert text.startswith("An exactly translation-invariant model cannot get below λ = 8.16%. ResNet is at ")
    assert "its fitted floor is" in text
    assert "ViT" not in text
    assert floor_statements(of, dataclasses.replace(CARD, floor=None), FAMILIES, NAMES) == []
    assert floor_statements(of, dataclasses.replace(CARD, floor=0.0), FAMILIES, NAMES) == []


def test_every_finding_is_listed_by_its_label(records: list[Record]) -> None:
    answers = answered(records)
    rows = every_statement(answers, CARD, NAMES)
    kinds = {question.split(",")[0] for question, _ in rows}
    assert kinds == {
        "Crossover", "Paired tests", "Data multiplier", "Choice", "Images needed", "Fit", "Equal compute",
        "Equal seconds", "Spread over seeds",
    }  # fmt: skip
    for _, text in rows:
        assert text.endswith(".")
        assert not {"vit", "resnet", "mixer", "mlp"} & set(text.replace(":", " ").replace(",", " ").split())
    assert rows[0][1] == main_statements(answers, CARD, FAMILIES, NAMES)[0]


def test_nothing_finished_says_nothing() -> None:
    answers = answered([])
    assert main_statements(answers, CARD, FAMILIES, NAMES) == []
    assert every_statement(answers, CARD, NAMES) == []


def test_reservations_name_what_records_show(records: list[Record]) -> None:
    odd = [record.model_copy(update={"protocol_version": "0", "subset_hash": record.cell_id}) for record in records]
    text = " ".join(reservation_statements(records_frame(odd), CARD, answered(odd)))
    assert "protocol 1; its records were made under 0" in text
    assert "breaks their pairing" in text
    assert "Compute-limited" in text
    assert "rest on only 3 replicates" in text
    text = " ".join(reservation_statements(records_frame(records), CARD, answered(records)))
    assert "pairing" not in text
    assert "Exact training FLOPs differ by up to 23% between arms" in text


def test_a_diverged_cell_is_no_difference_of_cost() -> None:
    """It ends where it diverges, after fewer FLOPs than its arm needs; the cost of an arm is that of finished cells."""
    arms = ("vit", "mixer")
    whole = [make_record(arm, replicate=replicate, error=0.2) for arm in arms for replicate in range(2)]
    half = [
        branch.model_copy(update={"train_flops_exact": branch.train_flops_exact // 2}) for branch in whole[0].branches
    ]
    stopped = make_record(replicate=2, status="diverged", reason="loss nan").model_copy(update={"branches": (*half,)})
    frame = records_frame([*whole, stopped])
    assert "Exact training FLOPs" not in " ".join(reservation_statements(frame, CARD, answered([*whole, stopped])))
    finished = stopped.model_copy(update={"status": "finished"})
    told = " ".join(reservation_statements(records_frame([*whole, finished]), CARD, answered([*whole, finished])))
    assert "Exact training FLOPs differ by up to 16% between arms" in told


def test_a_study_of_one_training_set_answers_over_its_budgets() -> None:
    apart = {"resnet": (0.3, 0.2, 0.15, 0.1), "vit": (0.4, 0.3, 0.14, 0.05)}
    records = [
        make_record(arm, num_train=512, replicate=replicate, branch_errors=[e * (1 + 0.01 * replicate) for e in errors])
        for arm, errors in apart.items()
        for replicate in range(4)
    ]
    told = main_statements(answered(records), CARD, FAMILIES, NAMES)
    assert told[0].startswith("With 512 training images: ViT overtakes ResNet at ")
    assert "training FLOPs" in told[0]
    assert any(text.startswith("What to choose at each budget: at ") for text in told)
    several = main_statements(answered(study_records(replicates=3)), CARD, FAMILIES, NAMES)
    assert not any("each budget" in text for text in several)
