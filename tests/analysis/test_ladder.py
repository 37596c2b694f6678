"""The ladder of permutations: known losses come back, and nothing more is said than the tests show."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from report.synthetic import LADDER, ladder_records, study_records
from scipy import stats

from studies.analysis.interaction import difference_of_differences
from studies.analysis.ladder import permutation_ladder, unpermuted
from studies.analysis.of_records import records_table
from studies.analysis.study import analyse_study
from studies.records import records_frame

PAIR = ("resnet", "vit")


def frame_of(**options: float) -> pd.DataFrame:
    return records_frame(ladder_records(**options), "nano")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return frame_of()


def change_of(frame: pd.DataFrame, arm: str) -> pd.DataFrame:
    ladder = permutation_ladder(frame, pair=PAIR)
    assert ladder is not None
    return next(one.tests for one in ladder.changes if one.family == arm).set_index("rung")


def test_the_families_part_as_theory_has_it(frame: pd.DataFrame) -> None:
    lost = {arm: change_of(frame, arm)["p_holm"] < 0.05 for arm in LADDER}
    assert lost["resnet"].tolist() == [True, True, True]
    assert lost["vit"].tolist() == [False, False, True]
    assert lost["mlp"].tolist() == [False, False, False]
    assert change_of(frame, "vit").index.tolist() == ["within_patch", "patches", "pixels"]


def test_without_noise_changes_are_the_true_factors() -> None:
    frame = frame_of(noise=0.0)
    for arm, errors in LADDER.items():
        tests = change_of(frame, arm)
        for rung in ("within_patch", "patches", "pixels"):
            assert tests.loc[rung, "change"] == pytest.approx(math.log(errors[rung] / errors["none"]), abs=1e-12)
            assert tests.loc[rung, "unpermuted"] == pytest.approx(errors["none"])
            assert tests.loc[rung, "permuted"] == pytest.approx(errors[rung])


def test_a_change_is_the_paired_t_test_of_log_errors(frame: pd.DataFrame) -> None:
    of = frame[(frame["arm"] == "resnet") & frame["selected"]].set_index(["permutation", "replicate"])["test_error"]
    expected = stats.ttest_rel(np.log(of["patches"]), np.log(of["none"]))
    row = change_of(frame, "resnet").loc["patches"]
    interval = expected.confidence_interval(0.95)
    assert row["p_value"] == pytest.approx(expected.pvalue)
    assert (row["low"], row["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    corrected = change_of(frame, "resnet")
    smallest = corrected["p_value"].min()
    assert corrected["p_holm"].min() == pytest.approx(3 * smallest), "Holm over the three rungs"


def test_only_replicates_with_both_are_paired() -> None:
    frame = frame_of(replicates=4)
    lacking = frame[~((frame["arm"] == "vit") & (frame["permutation"] == "patches") & (frame["replicate"] == 1))]
    assert change_of(lacking, "vit")["num_replicates"].tolist() == [4, 3, 4]


def test_the_difference_of_differences_is_that_of_the_control_corrected_over_rungs(frame: pd.DataFrame) -> None:
    ladder = permutation_ladder(frame, pair=PAIR)
    assert ladder is not None
    assert [one.rung for one in ladder.differences] == ["within_patch", "patches", "pixels"]
    tables = {rung: records_table(frame[frame["permutation"] == rung]).curves for rung in ("none", "pixels")}
    expected = difference_of_differences(*(tables[rung][arm] for rung in ("none", "pixels") for arm in PAIR))
    found = ladder.differences[2].tests
    columns = ["difference", "low", "high", "p_value"]
    pd.testing.assert_frame_equal(found[columns], expected.tests[columns])
    p_values = [float(one.tests["p_value"].iloc[0]) for one in ladder.differences]
    assert min(float(one.tests["p_holm"].iloc[0]) for one in ladder.differences) == pytest.approx(3 * min(p_values))
    assert [one.num_tests for one in ladder.differences] == [3, 3, 3]


def test_a_sentence_says_whose_errors_are_multiplied_by_more(frame: pd.DataFrame) -> None:
    names = {"resnet": "ResNet", "vit": "ViT", "mlp": "Fully connected"}
    ladder = permutation_ladder(frame, pair=PAIR)
    turned = permutation_ladder(frame, pair=PAIR[::-1])
    assert ladder is not None
    assert turned is not None
    said = ladder.differences[0].sentence(names)
    assert said.startswith(
        "With pixels permuted within patches, the errors of ResNet are multiplied by more than those"
    )
    assert turned.differences[0].sentence(names) == said, "which of the two is named first does not matter"
    row = ladder.differences[0].tests.iloc[0]
    assert f"{math.exp(-row['difference']):.2f} ({math.exp(-row['high']):.2f} to {math.exp(-row['low']):.2f})" in said
    vit = next(one for one in ladder.changes if one.family == "vit").sentence(names)
    assert vit.count("not significant") == 2
    assert "with all pixels permuted." in vit, "the last rung is significant"


def test_one_replicate_has_factors_and_no_test() -> None:
    frame = frame_of(replicates=1)
    ladder = permutation_ladder(frame, pair=PAIR)
    assert ladder is not None
    said = [one.sentence() for one in ladder.findings]
    assert all("without replicates" in text for text in said)
    assert not any("significant" in text for text in said)
    assert ladder.errors["half_width"].isna().all()


def test_arms_without_a_difference_are_not_told_apart() -> None:
    other = frame_of(seed=7)
    twin = other[other["arm"] == "vit"].assign(arm="vit-twin")
    ladder = permutation_ladder(pd.concat([frame_of(), twin]), pair=("vit", "vit-twin"))
    assert ladder is not None
    assert all("significant at no size" in one.sentence() for one in ladder.differences)


def test_near_chance_is_marked(frame: pd.DataFrame) -> None:
    ladder = permutation_ladder(frame, pair=PAIR, chance=0.5)
    assert ladder is not None
    assert ladder.at_chance[["arm", "rung"]].to_numpy().tolist() == [["vit", "pixels"]]
    unknown = permutation_ladder(frame, pair=PAIR)
    assert unknown is not None
    assert unknown.at_chance.empty


def test_curves_are_of_images_as_they_are(frame: pd.DataFrame) -> None:
    answers = analyse_study(frame, pair=PAIR, chance=0.5)
    assert answers.ladder is not None
    assert answers.primary is not None
    for arm, curve in answers.primary.table.curves.items():
        assert math.exp(curve.mean[0]) == pytest.approx(LADDER[arm]["none"], rel=0.2)
        assert curve.num_replicates == 5
    assert set(unpermuted(frame)["permutation"]) == {"none"}
    alike = frame[frame["permutation"] == "pixels"]
    assert len(unpermuted(alike)) == len(alike), "a study under one permutation is about its own images"


def test_a_study_without_a_ladder_has_none_and_the_same_answers() -> None:
    frame = records_frame(study_records(replicates=2, sizes=(128, 512)), "nano")
    answers = analyse_study(frame, pair=PAIR)
    assert answers.ladder is None
    assert "ladder" not in answers.as_dict()
    assert permutation_ladder(frame[frame["permutation"] == "pixels"]) is None


def test_a_rung_that_was_not_measured_is_named(frame: pd.DataFrame) -> None:
    lacking = frame[~((frame["arm"] == "vit") & (frame["permutation"] == "patches"))]
    ladder = permutation_ladder(lacking, pair=PAIR)
    assert ladder is not None
    assert [str(item) for item in ladder.left_out] == ["vit with patches permuted: no finished cell"]
    assert [one.rung for one in ladder.differences] == ["within_patch", "pixels"]
