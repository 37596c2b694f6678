"""Tables that cannot be answered in full are answered with what is true, in a clear sentence; nothing crashes."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis.closed_form import noisy_table, table_of
from studies.analysis.answers import Answers, analyse
from studies.analysis.crossover import Crossover
from studies.analysis.simulation import CONVOLUTION, TRANSFORMER, PowerLaw
from studies.analysis.table import Columns, curve_table
from studies.errors import ConfigError

BETTER, WORSE = PowerLaw(0.02, 2.0, 0.4), PowerLaw(0.04, 4.0, 0.4)


def answers_to(frame: pd.DataFrame, **how: object) -> Answers:
    """All answers; they can be printed and written as JSON."""
    answers = analyse(curve_table(frame), **how)  # type: ignore[arg-type]
    for statement in answers.statements():
        assert statement.endswith((".", "?")), statement
        assert "nan" not in statement.split(), statement
    json.dumps(answers.as_dict(), allow_nan=False)
    return answers


def the_crossover(frame: pd.DataFrame, **how: object) -> Crossover:
    (found,) = answers_to(frame, **how).crossovers
    return found


def test_one_replicate() -> None:
    found = the_crossover(noisy_table({"a": BETTER, "b": WORSE}, replicates=1))
    assert found.decision == "not resolved"
    assert found.confidence_set is None
    assert found.interval is None
    assert "without replicates" in found.sentence()
    assert found.tests.tests["p_value"].isna().all()
    assert "without replicates" in found.tests.sentence()


def test_two_sizes() -> None:
    found = the_crossover(noisy_table({"a": CONVOLUTION, "b": TRANSFORMER}, sizes=(256, 30000), noise=0.005))
    assert found.decision == "crosses"
    assert len(found.roots) == 1
    assert 256 < found.roots[0].x < 30000


@pytest.mark.parametrize("kind", ["linear", "monotone"])
def test_one_size(kind: str) -> None:
    frame = noisy_table({"a": BETTER, "b": WORSE}, sizes=(256,))
    answers = answers_to(frame, interpolation=kind)
    found = answers.crossovers[0]
    assert found.decision == "none below x_max"
    assert found.roots == ()
    assert found.sentence().startswith("a is better than b at 256 images, the only place where both were measured")
    assert [choice.family for choice in answers.choices] == ["a"]


def test_curves_that_never_cross() -> None:
    found = the_crossover(noisy_table({"a": BETTER, "b": WORSE}))
    assert (found.decision, found.roots) == ("none below x_max", ())
    assert found.sentence().startswith("No crossover from 64 to 4,096 images: a is better than b at every one of 4")


def test_curves_that_cross_twice() -> None:
    gaps = {16.0: 0.3, 64.0: -0.3, 256.0: -0.2, 1024.0: 0.3}
    frame = noisy_table(
        {"a": lambda n: 0.5 * n**-0.2, "b": lambda n: 0.5 * n**-0.2 * math.exp(gaps[n])}, tuple(gaps), noise=0.005
    )
    found = the_crossover(frame)
    assert found.decision == "crosses"
    assert [(root.better_below, root.better_above) for root in found.roots] == [("a", "b"), ("b", "a")]
    assert 16 < found.roots[0].x < 64
    assert 256 < found.roots[1].x < 1024
    assert found.sentence().count("overtakes") == 2
    assert len(found.confidence_set or ()) == 2
    assert found.interval is None  # several roots have no single interval


def test_identical_curves() -> None:
    rows = {x: [0.4 * x**-0.2, 0.5 * x**-0.2, 0.45 * x**-0.2] for x in (64.0, 256.0, 1024.0)}
    found = the_crossover(table_of({"a": rows, "b": rows}))
    assert found.decision == "not resolved"
    assert found.roots == ()
    assert (found.tests.tests["difference"] == 0).all()
    assert (found.tests.tests["p_value"] == 1).all()
    (everywhere,) = found.confidence_set or ()
    assert everywhere.open_below
    assert everywhere.open_above
    assert "cannot be told apart for training images N anywhere from 64 to 1,024" in found.sentence()


def test_zero_errors_count_as_half_an_error() -> None:
    frame = noisy_table({"a": BETTER, "b": WORSE})
    frame.loc[(frame["family"] == "a") & (frame["num_train"] == 4096), "error"] = 0.0
    answers = answers_to(frame)
    assert answers.table.curves["a"].mean[-1] == pytest.approx(math.log(0.5 / 1001))
    unknown = answers_to(frame.drop(columns="num_test"))
    assert len(unknown.table.curves["a"].x) == 3
    (first, *_) = unknown.table.left_out
    assert "its error is zero and the number of test images is not known" in first.reason


def test_errors_at_chance() -> None:
    frame = noisy_table({"a": BETTER, "b": WORSE})
    frame.loc[frame["num_train"] == 64, "error"] = 0.9
    found = the_crossover(frame, chance=0.9)
    assert found.decision == "not resolved"  # at one size the two are equal
    assert found.tests.tests["p_value"].iloc[0] == 1
    flat = answers_to(frame.assign(error=0.9), chance=0.9)
    assert flat.crossovers[0].decision == "not resolved"
    assert any("chance" in statement for statement in map(str, flat.fits.values()))


def test_missing_cells_cost_as_little_as_possible() -> None:
    frame = noisy_table({"a": BETTER, "b": WORSE})
    whole = the_crossover(frame)
    gap = (frame["family"] == "b") & (frame["num_train"] == 256) & (frame["replicate"] == 2)
    found = the_crossover(frame[~gap])
    assert found.decision == "none below x_max"
    assert found.tests.tests["num_pairs"].tolist() == [4, 3, 4, 4]
    assert "b at num_train=256" in " ".join(map(str, found.left_out))
    others = found.tests.tests["num_pairs"] == 4
    np.testing.assert_array_equal(
        found.tests.tests.loc[others, "difference"], whole.tests.tests.loc[others, "difference"]
    )


def test_cells_that_are_nan_are_named_and_equal_to_missing_ones() -> None:
    frame = noisy_table({"a": BETTER, "b": WORSE})
    gap = (frame["family"] == "b") & (frame["num_train"] == 256) & (frame["replicate"] == 2)
    without, with_nan = answers_to(frame[~gap]), answers_to(frame.assign(error=frame["error"].mask(gap)))
    assert [str(item) for item in with_nan.table.left_out] == ["b at 256, replicate 2: it has no error"]
    assert with_nan.crossovers[0].as_dict() == without.crossovers[0].as_dict()


def test_a_whole_size_is_missing_for_one_family() -> None:
    frame = noisy_table({"a": BETTER, "b": WORSE})
    found = the_crossover(frame[~((frame["family"] == "b") & (frame["num_train"] == 256))])
    assert found.tests.tests["measured"].tolist() == [True, False, True, True]
    assert found.decision == "not resolved"  # that b is worse at every planned size was not measured


def test_duplicate_rows_that_agree_count_once() -> None:
    frame = noisy_table({"a": BETTER, "b": WORSE})
    twice = answers_to(pd.concat([frame, frame.iloc[[3]]]))
    assert twice.crossovers[0].as_dict() == the_crossover(frame).as_dict()
    assert "2 equal rows of it count once" in str(twice.table.left_out[0])


def test_duplicate_rows_that_contradict_do_not_count() -> None:
    frame = noisy_table({"a": BETTER, "b": WORSE})
    other = frame.iloc[[3]].assign(error=0.123)
    answers = answers_to(pd.concat([frame, other]))
    (left_out,) = answers.table.left_out
    assert "disagree" in left_out.reason
    assert "0.123" in left_out.reason
    without = answers_to(frame.drop(index=3))
    assert answers.crossovers[0].as_dict() == without.crossovers[0].as_dict()


def test_no_common_replicate() -> None:
    frame = noisy_table({"a": BETTER, "b": WORSE})
    frame.loc[frame["family"] == "b", "replicate"] += 10
    found = the_crossover(frame)
    assert found.decision == "not resolved"
    assert "cannot be compared" in found.sentence()
    assert "no replicate in common" in found.sentence()


def test_replicates_are_paired_by_name() -> None:
    frame = noisy_table({"a": BETTER, "b": WORSE}, noise=0.2)
    kept = frame[~((frame["family"] == "a") & (frame["replicate"] == 0))]
    kept = kept[~((kept["family"] == "b") & (kept["replicate"] == 3))]
    found = the_crossover(kept)
    assert (found.tests.tests["num_pairs"] == 2).all()
    wide = np.log(frame.pivot(index="num_train", columns=["family", "replicate"], values="error"))
    by_name = ((wide["a"][1] - wide["b"][1]) + (wide["a"][2] - wide["b"][2])) / 2
    np.testing.assert_allclose(found.tests.tests["difference"], by_name.to_numpy(), rtol=1e-12)
    assert [item.what for item in found.left_out] == ["replicate 3 of a", "replicate 0 of b"]


def test_no_overlapping_sizes() -> None:
    frame = noisy_table({"a": BETTER, "b": WORSE})
    keep = (frame["family"] == "a") == (frame["num_train"] < 300)
    found = the_crossover(frame[keep])
    assert found.decision == "not resolved"
    assert "cannot be compared" in found.sentence()


def test_curves_that_share_one_size() -> None:
    frame = noisy_table({"a": BETTER, "b": WORSE}, sizes=(16, 64, 256, 1024, 4096, 16384, 65536))
    sides = (frame["family"] == "a") == (frame["num_train"] < 1000)
    found = the_crossover(frame[sides | (frame["num_train"] == 1024)])
    assert found.decision == "not resolved"  # better at one size, and the others were not measured
    assert found.tests.tests["x"].tolist() == [pytest.approx(1024)]
    assert found.fitted is None


def test_one_family() -> None:
    answers = answers_to(noisy_table({"a": BETTER}))
    assert answers.crossovers == ()
    assert "no other family" in " ".join(answers.statements())


def test_no_usable_row() -> None:
    frame = noisy_table({"a": BETTER}).assign(error=math.nan)
    answers = answers_to(frame)
    assert answers.table.curves == {}
    assert "No row of the table can be used." in answers.statements()


def test_a_curve_that_rises() -> None:
    answers = answers_to(noisy_table({"a": lambda n: 0.05 * n**0.2, "b": lambda n: 0.06 * n**0.2}))
    assert answers.crossovers[0].decision == "none below x_max"
    assert answers.multipliers[0].falls_back == ("a", "b")


REFUSED: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "no error column": (lambda frame: frame.drop(columns="error"), "no column 'error'"),
    "text for a number": (lambda frame: frame.astype({"error": object}).replace({"error": {frame["error"][0]: "?"}}),
                          r"row 1: error is '\?'; expected a number"),
    "negative size": (lambda frame: frame.assign(num_train=-frame["num_train"]), "row 1: num_train is -64"),
    "negative error": (lambda frame: frame.assign(error=-frame["error"]), "row 1: error is -"),
    "infinite error": (lambda frame: frame.assign(error=math.inf), "row 1: error is inf"),
    "negative standard error": (lambda frame: frame.assign(standard_error=-0.01), "row 1: standard_error is -0.01"),
    "infinite standard error": (lambda frame: frame.assign(standard_error=math.inf), "row 1: standard_error is inf"),
    "negative num_test": (lambda frame: frame.assign(num_test=-5), "row 1: num_test is -5; expected the number of"),
    "date": (lambda frame: frame.assign(num_train=pd.Timestamp("2020-01-01")), "row 1: num_train is 2020-01-01"),
    "too many replicates": (lambda frame: frame.iloc[:1].loc[[0] * 1001].assign(replicate=range(1001)),
                            "a has 1,001 replicates in column 'replicate', and at most 1,000"),
    "unnamed replicates": (lambda frame: frame.drop(columns="replicate"), "4 rows at num_train=64 .* no column 'repl"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_make_every_answer_wrong_is_refused(name: str) -> None:
    change, says = REFUSED[name]
    with pytest.raises(ConfigError, match=says):
        curve_table(change(noisy_table({"a": BETTER, "b": WORSE})))


def test_shuffled_rows_change_nothing() -> None:
    frame = noisy_table({"a": CONVOLUTION, "b": TRANSFORMER, "c": WORSE}, replicates=3)
    known = answers_to(frame).as_dict()
    for seed in range(2):
        assert answers_to(frame.sample(frac=1, random_state=seed)).as_dict() == known


def test_shuffled_rows_change_no_x_that_was_measured() -> None:
    frame = noisy_table({"a": CONVOLUTION, "b": TRANSFORMER}, replicates=7)
    seconds = frame["num_train"] * np.random.default_rng(0).uniform(0.9, 1.1, len(frame))
    frame, columns = frame.assign(seconds=seconds), Columns(x="seconds", point="num_train")
    known = curve_table(frame, columns).curves
    assert known["a"].x.shape == (4,)
    for seed in range(10):
        for family, curve in curve_table(frame.sample(frac=1, random_state=seed), columns).curves.items():
            np.testing.assert_array_equal(curve.x, known[family].x)
            np.testing.assert_array_equal(curve.log_error, known[family].log_error)


def renamed(content: object, names: dict[str, str]) -> object:
    """JSON content with one text for another, everywhere."""
    text = json.dumps(content)
    for old, new in names.items():
        text = text.replace(old, new)
    return json.loads(text)


THREE = {"[a]": CONVOLUTION, "[b]": TRANSFORMER, "[c]": WORSE}


def test_renamed_families_change_only_the_names() -> None:
    names = {"[a]": "hybrid 7", "[b]": "lstm", "[c]": "mixer (large)"}  # in the same order
    frame = noisy_table(THREE, replicates=3)
    other = answers_to(frame.replace({"family": names})).as_dict()
    assert renamed(other, {new: old for old, new in names.items()}) == renamed(answers_to(frame).as_dict(), {})


def test_the_order_of_names_changes_no_number() -> None:
    names = {"[a]": "<z>", "[b]": "<y>", "[c]": "<x>"}
    frame = noisy_table(THREE, replicates=3)
    known, other = (answers_to(one) for one in (frame, frame.replace({"family": names})))
    back = {new: old for old, new in names.items()}
    assert renamed(other.as_dict()["curves"], back) == renamed(known.as_dict()["curves"], {})
    found = [{(one.first, one.second): one for one in answers.crossovers} for answers in (known, other)]
    assert {(back[first], back[second]) for first, second in found[1]} == set(found[0])
    for (first, second), one in found[1].items():
        pair = back[first], back[second]
        assert renamed(one.as_dict(), back) == renamed(found[0][pair].as_dict(), {})
    assert [(back[choice.family], choice.probability) for choice in other.choices] == [
        (choice.family, pytest.approx(choice.probability, abs=1e-12)) for choice in known.choices
    ]


def test_swapping_a_pair_swaps_the_sign_alone() -> None:
    table = curve_table(noisy_table({"a": CONVOLUTION, "b": TRANSFORMER}))
    one, other = (analyse(table, pair=pair).crossovers[0] for pair in (("a", "b"), ("b", "a")))
    np.testing.assert_array_equal(one.tests.tests["difference"], -other.tests.tests["difference"])
    np.testing.assert_array_equal(one.tests.tests["p_holm"], other.tests.tests["p_holm"])
    assert (one.decision, one.confidence_set) == (other.decision, other.confidence_set)
    for here, there in zip(one.roots, other.roots, strict=True):
        assert (here.x, here.better_below, here.better_above) == (there.x, there.better_below, there.better_above)


def test_other_names_of_columns() -> None:
    frame = noisy_table({"a": BETTER, "b": WORSE}).rename(columns={"family": "model", "num_train": "flops"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = curve_table(frame, Columns(x="flops", family="model"))
    assert table.curves["a"].column == "flops"
    assert "(flops)" in str(analyse(table).crossovers[0])
