"""The ladder of permutations: known losses come back, and nothing more is said than the tests show."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from report.synthetic import LADDER, ladder_records, study_records
from scipy import stats

from studies.analysis.interaction import difference_of_differences
from studies.analysis.ladder import Ladder, permutation_ladder, unpermuted
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


def test_what_is_significant_is_said_before_what_is_not() -> None:
    frame = frame_of()
    of = {name: (frame["arm"] == name) & (frame["permutation"] == "within_patch") for name in PAIR}
    as_they_are = {name: (frame["arm"] == name) & (frame["permutation"] == "none") for name in PAIR}
    for name in PAIR:  # the first rung costs neither anything
        frame.loc[of[name], "test_error"] = frame.loc[as_they_are[name], "test_error"].to_numpy()
    ladder = ladder_of(frame)
    assert [one.rung for one in ladder.differences] == ["within_patch", "patches", "pixels"]
    said = [one.sentence() for one in ladder.findings[:3]]
    assert [text.partition(",")[0] for text in said] == [
        "With patches permuted",
        "With all pixels permuted",
        "With pixels permuted within patches",
    ]
    assert "significant at no size" in said[2]


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
    ladder = ladder_of(frame[~((frame["arm"] == "vit") & (frame["permutation"] == "patches"))])
    assert [str(item) for item in ladder.left_out] == ["vit with patches permuted: no finished cell"]
    assert [one.tests.empty for one in ladder.differences] == [False, True, False]
    assert ladder.differences[1].sentence(NAMES) == (
        "With patches permuted, ResNet and ViT cannot be compared: no finished cell of ViT with patches permuted."
    )


def test_an_arm_without_unpermuted_images_is_named_and_so_is_why_its_pair_has_no_difference(
    frame: pd.DataFrame,
) -> None:
    ladder = ladder_of(frame[~((frame["arm"] == "vit") & (frame["permutation"] == "none"))])
    assert [str(item) for item in ladder.left_out] == ["vit on images as they are: no finished cell"]
    said = [one.sentence(NAMES) for one in ladder.differences]
    assert len(said) == 3
    assert all(text.endswith("cannot be compared: no finished cell of ViT on images as they are.") for text in said)
    (vit,) = (one for one in ladder.changes if one.family == "vit")
    assert vit.sentence(NAMES) == "ViT: no size has errors both with and without a permutation."


@pytest.mark.parametrize("rung", ["none", "patches"])
def test_a_size_without_cells_of_an_arm_is_named(rung: str) -> None:
    frame = of_two_sizes()
    ladder = ladder_of(frame[~((frame["arm"] == "vit") & (frame["num_train"] == 512) & (frame["permutation"] == rung))])
    images = {"none": "on images as they are", "patches": "with patches permuted"}[rung]
    assert [str(item) for item in ladder.left_out] == [f"vit at 512 images {images}: no finished cell"]
    assert ladder.differences[1].tests["x"].tolist() == [2048.0]


def test_a_size_that_an_arm_was_never_trained_at_is_named_at_every_rung() -> None:
    frame = of_two_sizes()
    ladder = ladder_of(frame[~((frame["arm"] == "mlp") & (frame["num_train"] == 512))])
    assert len(ladder.left_out) == 4
    assert all(item.what.startswith("mlp at 512 images ") for item in ladder.left_out)


def test_rungs_without_a_common_replicate_are_named(frame: pd.DataFrame) -> None:
    early = frame["replicate"] < 2
    ladder = ladder_of(frame[~((frame["arm"] == "vit") & (early == (frame["permutation"] == "patches")))])
    assert [str(item) for item in ladder.left_out] == [
        "vit at 2,048 images with patches permuted: no replicate in common with images as they are"
    ]
    assert ladder.differences[1].sentence(NAMES) == (
        "With patches permuted, ResNet and ViT cannot be compared: no replicate of any size has both arms with and "
        "without the permutation."
    )


@pytest.mark.parametrize("rung", ["none", "patches"])
def test_a_replicate_that_lacks_one_size_is_not_paired_there(rung: str) -> None:
    frame = of_two_sizes()
    lacking = (frame["arm"] == "vit") & (frame["num_train"] == 512) & (frame["replicate"] == 1)
    tests = next(one.tests for one in ladder_of(frame[~(lacking & (frame["permutation"] == rung))]).changes
                 if one.family == "vit").set_index(["rung", "x"])  # fmt: skip
    assert tests.loc["patches", "num_replicates"].to_dict() == {512.0: 3, 2048.0: 4}
    known = frame[(frame["arm"] == "vit") & (frame["num_train"] == 512) & (frame["replicate"] != 1) & frame["selected"]]
    errors = known.set_index(["permutation", "replicate"])["test_error"]
    expected = stats.ttest_rel(np.log(errors["patches"]), np.log(errors["none"]))
    assert tests.loc[("patches", 512.0), "p_value"] == pytest.approx(expected.pvalue)


def test_nothing_is_claimed_of_who_loses_more_at_chance() -> None:
    """Both arms are at chance when all pixels are permuted: the ratio of their factors is that of unpermuted errors."""
    ladder = ladder_of(at_the_ceiling(), chance=0.5)
    tests = ladder.differences[2].tests
    assert tests["near_chance"].tolist() == [True]
    assert tests["p_value"].iloc[0] < 1e-4, "which would have been told"
    assert math.isnan(tests["p_holm"].iloc[0])
    assert ladder.differences[2].sentence(NAMES) == (
        "With all pixels permuted, which of ResNet and ViT loses more is not told: at chance at 2,048 images."
    )
    elsewhere = ladder_of(at_the_ceiling(), chance=0.9).differences[2]
    assert elsewhere.sentence(NAMES).startswith("With all pixels permuted, the errors of ResNet are multiplied by more")
    assert [one.num_tests for one in ladder.differences] == [3, 3, 3]


@pytest.mark.parametrize("arm", PAIR)
def test_one_arm_of_a_pair_at_chance_is_enough(arm: str) -> None:
    frame = at_the_ceiling()
    other = frame["arm"].isin(PAIR) & (frame["arm"] != arm) & (frame["permutation"] == "pixels")
    frame.loc[other, "test_error"] *= 0.6
    assert "not told: at chance" in ladder_of(frame, chance=0.5).differences[2].sentence(NAMES)


@pytest.mark.parametrize("arm", PAIR)
def test_an_arm_at_chance_on_images_as_they_are_has_nothing_left_to_lose(frame: pd.DataFrame, arm: str) -> None:
    """Its factor is 1 whatever it assumes: at no rung is anything told of who loses more."""
    full = frame.copy()
    full.loc[(full["arm"] == arm) & (full["permutation"] == "none"), "test_error"] = 0.95
    for one in ladder_of(full, chance=1.0).differences:
        assert one.tests["near_chance"].tolist() == [True]
        assert "not told: at chance" in one.sentence(NAMES)


def test_a_claim_at_one_size_stands_beside_a_size_at_chance() -> None:
    frame = pd.concat([at_the_ceiling(), frame_of(num_train=512, seed=3)])
    said = ladder_of(frame, chance=0.6).differences[2].sentence(NAMES)
    assert "the errors of ResNet are multiplied by more than those of ViT" in said
    assert "at 512 images (ratio of the factors" in said
    assert said.endswith("; not told: at chance at 2,048 images.")


def test_a_single_replicate_is_told_as_no_test_and_not_counted(frame: pd.DataFrame) -> None:
    one_left = (frame["arm"] == "vit") & (frame["permutation"] == "patches") & (frame["replicate"] > 0)
    ladder = ladder_of(frame[~one_left])
    said = next(one for one in ladder.changes if one.family == "vit").sentence(NAMES)
    assert "with patches permuted (no test)" in said
    assert "Holm over 2)" in said
    assert said.count("(no test)") == 1
    assert [one.num_tests for one in ladder.differences] == [2, 2, 2]
    sized = ladder_of(pd.concat([frame[~one_left], frame_of(num_train=512, seed=3)]))
    assert sized.differences[1].sentence(NAMES).endswith("; not tested for want of common replicates: 2,048 images.")


NAMES = {"resnet": "ResNet", "vit": "ViT", "mlp": "Fully connected"}


def ladder_of(frame: pd.DataFrame, chance: float | None = None) -> Ladder:
    ladder = permutation_ladder(frame, pair=PAIR, chance=chance)
    assert ladder is not None
    return ladder


def of_two_sizes() -> pd.DataFrame:
    return pd.concat([frame_of(replicates=4, num_train=512, seed=1), frame_of(replicates=4)], ignore_index=True)


def at_the_ceiling() -> pd.DataFrame:
    """ResNet .10 and ViT .25 on images as they are, both .495 with all pixels permuted."""
    frame = frame_of(noise=0.02)
    for arm, rungs in LADDER.items():
        for rung, error in rungs.items():
            rows = (frame["arm"] == arm) & (frame["permutation"] == rung)
            wanted = 0.495 if rung == "pixels" else {"resnet": 0.1, "vit": 0.25, "mlp": 0.4}[arm]
            frame.loc[rows, "test_error"] *= wanted / error
    return frame
