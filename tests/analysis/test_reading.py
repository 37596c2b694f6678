"""Columns of anybody's table: recognised where there is no doubt, asked for where there is."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from studies.analysis.measured import measured_table
from studies.analysis.reading import read_table, understand
from studies.analysis.values import labels
from studies.errors import ConfigError

PLAIN = pd.DataFrame({"family": ["a", "b"], "num_train": [10, 10], "error": [0.2, 0.3]})


def test_our_own_names_need_no_note() -> None:
    found = understand(PLAIN.assign(replicate=0))
    assert found.notes == ()
    assert (found.columns.family, found.columns.x, found.columns.error) == ("family", "num_train", "error")


def test_usual_names_are_recognised_and_said() -> None:
    frame = PLAIN.rename(columns={"family": "Model", "num_train": "train_size", "error": "test_error"})
    found = understand(frame.assign(seed=0, se=0.01, n_test=100))
    columns = found.columns
    assert (columns.family, columns.x, columns.error) == ("Model", "train_size", "test_error")
    assert (columns.replicate, columns.standard_error, columns.num_test) == ("seed", "se", "n_test")
    assert any("'Model' is read as family" in note for note in found.notes)


@pytest.mark.parametrize("name", ["accuracy", "test_accuracy", "top1"])
def test_an_accuracy_becomes_an_error(name: str) -> None:
    frame = PLAIN.drop(columns="error").assign(**{name: [0.8, 0.7]})
    for found in (understand(frame), understand(frame, error=name)):
        assert found.frame[found.columns.error].tolist() == pytest.approx([0.2, 0.3])
        assert f"Errors are 1 - {name}." in found.notes
    assert name in frame  # the caller's table is as it was


def test_an_error_goes_before_an_accuracy() -> None:
    assert understand(PLAIN.assign(accuracy=[0.1, 0.1])).columns.error == "error"


REFUSED = {
    "two families": (PLAIN.rename(columns={"family": "model"}).assign(method="x"), {}, "'model' or 'method' could be"),
    "no x": (PLAIN.drop(columns="num_train"), {}, "no column could be the x; name one with --x"),
    "no such column": (PLAIN, {"x": "flops"}, "--x: the table has no column 'flops'; it has family, num_train, error"),
    "two errors": (PLAIN.drop(columns="error").assign(test_error=0.1, error_rate=0.1), {}, "could be the error"),
    "percent": (PLAIN.assign(error=[20.0, 30.0]), {}, "row 1: error is 20, .* in percent, divide it by 100"),
    "percent accuracy": (PLAIN.drop(columns="error").assign(acc=[0.9, 91.0]), {}, "row 2: acc is 91"),
    "one column twice": (pd.concat([PLAIN, PLAIN[["error"]]], axis=1), {}, "2 columns called 'error'"),
    "x is error": (PLAIN, {"x": "error"}, "'error' would be both the error and the x"),
    "replicate is error": (PLAIN, {"replicate": "error"}, "'error' would be both the error and the replicate"),
    "family is x": (PLAIN, {"family": "num_train"}, "'num_train' would be both the family and the x"),
    "boolean": (PLAIN.assign(error=[True, False]), {}, "row 1: error is True; expected a number"),
    "decimal comma": (PLAIN.assign(error=["0,2", "0,3"]), {}, "expected a number, with a point before its decimals"),
    "text": (PLAIN.assign(error=["0.1", "low"]), {}, "row 2: error is 'low'; expected a number"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_in_doubt_is_asked(name: str) -> None:
    frame, named, says = REFUSED[name]
    with pytest.raises(ConfigError, match=says):
        understand(frame, **named)


def test_a_loss_may_exceed_one() -> None:
    frame = PLAIN.drop(columns="error").assign(test_loss=[2.0, 1.5])
    measured = measured_table(frame, error="test_loss")
    assert any("read as a loss" in note for note in measured.table.notes)


def test_without_replicates_it_is_said() -> None:
    (note,) = measured_table(PLAIN).table.notes
    assert "no interval and no test is possible" in note
    (stated,) = measured_table(PLAIN.assign(standard_error=0.01)).table.notes
    assert "rest on the standard errors" in stated


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("# a remark\n" + PLAIN.to_csv(index=False))
    pd.testing.assert_frame_equal(read_table(path), PLAIN)
    PLAIN.to_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "table.parquet"), PLAIN)
    broken = {"empty.csv": (b"", "is empty"), "header.csv": (b"a,b\n", r"a header \(a, b\) and no rows"),
              "text.parquet": (b"no parquet", "cannot be read as a table"),
              "bytes.csv": (bytes(range(128, 256)), "cannot be read as a table")}  # fmt: skip
    for name, (content, says) in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=says):
            read_table(tmp_path / name)
    with pytest.raises(ConfigError, match="is not a file"):
        read_table(tmp_path)


def test_names_of_a_csv_file_are_read_as_written(tmp_path: Path) -> None:
    names = ["1", "2.50", "007", "7", "NA", "None", "null", "#vit", "vit"]
    path = tmp_path / "table.csv"
    rows = "".join(f"{name},10,.2,{label}\n" for name in names for label in ("1", "1.0", "01"))
    path.write_text(f"# it's \"open\nfamily,num_train,error,replicate\n{rows}vit ,20,.1,1\n,30,.1,1\nlast,10,NA,1\n")
    table = measured_table(read_table(path)).table
    assert set(table.curves) == set(names)
    assert set(table.curves["1"].replicates) == {"1", "1.0", "01"}
    assert table.curves["vit"].x.tolist() == [10, 20]
    assert [item.reason for item in table.left_out] == ["it names no family", "it has no error"]
    path.write_text("kind,num_train,error\n007,10,.2\n7,10,.3\n")
    assert set(measured_table(read_table(path, text=["kind"]), family="kind").table.curves) == {"007", "7"}


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(PLAIN.to_csv(index=False, sep=separator))
    pd.testing.assert_frame_equal(read_table(path), PLAIN)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("family num_train error\na 1 .2\n", "a single column .* separated by commas, semicolons or tabs"),
        ("family,num_train,error,error\na,1,.2,.3\n", "2 columns called 'error'"),
        ("family,num_train,error\nrow,a,1,.2\n", "cannot be read as a table"),
    ],
)
def test_files_with_columns_in_doubt(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(ConfigError, match=says):
        read_table(tmp_path / "table.csv")


def test_named_levels_of_an_index_are_columns(tmp_path: Path) -> None:
    PLAIN.set_index(["family", "num_train"]).to_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "table.parquet"), PLAIN)


def test_whole_floats_are_names_without_decimals() -> None:
    frame = PLAIN.assign(family=[1.0, 2.5], replicate=[1234567.0, 1234568.0])
    curves = measured_table(frame).table.curves
    assert {name: curve.replicates for name, curve in curves.items()} == {"1": ("1234567",), "2.5": ("1234568",)}


@pytest.mark.parametrize("lacking", [0.0, None])
def test_rows_without_a_standard_error_are_named(lacking: float | None) -> None:
    frame = pd.concat([PLAIN, PLAIN.assign(num_train=20)]).assign(standard_error=[0.1, 0.1, 0.1, lacking])
    table = measured_table(frame).table
    assert table.curves["a"].standard_error is not None
    assert table.curves["b"].standard_error is None
    assert any("b has no intervals: 1 of its 2 points" in note and "(rows 4)" in note for note in table.notes)


def test_labels_of_a_column_of_text_are_those_of_its_cells() -> None:
    cells = ["01", " vit ", None, "1", "", "vit"]
    names = labels(pd.Series(cells, dtype="string", index=[3, 1, 4, 0, 5, 2]))
    assert names.tolist() == labels(pd.Series(cells, dtype=object)).tolist() == ["01", "vit", None, "1", None, "vit"]
    assert names.index.tolist() == [3, 1, 4, 0, 5, 2]
