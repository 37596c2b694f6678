"""`study fit` and `study bench`: anybody's table, a study's export, a study of the store; mistakes are one message."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from planned import finish, planned, record_of

from studies import cli
from studies.analysis.answers import analyse
from studies.analysis.measured import measured_export
from studies.export import export_table
from studies.records import records_frame
from studies.store import Store

Call = Callable[..., tuple[int, str, str]]
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "two_curves.csv"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls `study ARGS` in this process, in an empty folder -> exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("INDUCTIVE_BIAS_STORE", raising=False)

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["study", *map(str, args)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


def test_the_example_is_answered_as_its_header_says(study: Call, tmp_path: Path) -> None:
    figure = tmp_path / "curves.svg"
    code, out, err = study("fit", EXAMPLE, "--pair", "convolution,transformer", "--at", 1000, "--target", 0.3,
                           "--figure", figure)  # fmt: skip
    assert code == 0
    assert re.match(r"transformer overtakes convolution at 2,\d\d\d images, 95% confidence set .* 2,\d\d\d to 3,", out)
    assert "With 1,000 images and this budget choose convolution" in out
    assert "For an error of 0.3 transformer needs about" in out
    assert "With 128 images" not in out  # only what was asked
    for heading in ("Curves", "convolution against transformer", "Fitted curves"):
        assert heading in out
    assert str(figure) in err
    assert b"transformer" in figure.read_bytes()


def test_json_is_the_answers(study: Call) -> None:
    code, out, _ = study("fit", EXAMPLE, "--json", "--confidence", 0.9, "--interpolation", "linear")
    content = json.loads(out)
    assert code == 0
    assert content["confidence"] == 0.9
    (found,) = [one for one in content["findings"] if one["kind"] == "Crossover"]
    assert found["decision"] == "crosses"
    assert "(linear)" in found["method"]
    assert found["statement"].startswith("transformer overtakes convolution at 2,")


def test_a_table_with_other_names_and_no_replicates(study: Call, tmp_path: Path) -> None:
    frame = pd.read_csv(EXAMPLE, comment="#")
    one = frame[frame["replicate"] == 0].drop(columns=["replicate", "num_test"])
    one = one.assign(accuracy=1 - one["error"]).drop(columns="error")
    one.rename(columns={"family": "model", "num_train": "gigabytes"}).to_csv(tmp_path / "one.csv", index=False)
    code, out, _ = study("fit", "one.csv", "--x", "gigabytes")
    assert code == 0
    assert "without replicates nothing more can be said" in out
    assert "Errors are 1 - accuracy." in out
    assert "There are no replicates and no complete standard errors: no interval and no test is possible." in out
    assert "95% interval " not in out.split("Curves")[0]
    one.assign(se=0.005, num_train=one["num_train"]).to_csv(tmp_path / "stated.csv", index=False)
    code, out, _ = study("fit", "stated.csv")
    assert code == 0
    assert "intervals rest on the standard errors that the table states" in out


def test_an_export_and_its_study_give_the_same_curves(study: Call, tmp_path: Path) -> None:
    plan, store = planned(), Store(tmp_path / "results")
    finish(store, plan, plan.cells[1:])
    store.write_record(record_of(plan, plan.cells[0], status="failed", reason="out of memory"))
    paths = export_table(store.records(plan), tmp_path, name="mine")
    content = {}
    for source in (*paths, "small"):
        code, out, err = study("fit", source, "--pair", "resnet,vit", "--json")
        assert (code, err) == (0, "")
        content[str(source)] = json.loads(out)
    curves = [one["curves"] for one in content.values()]
    assert curves[0] == curves[1] == curves[2]
    assert set(curves[0]) == {"vit", "resnet", "mlp"}
    left_out = [one["left_out"] for one in content.values()]
    assert left_out[0] == left_out[1] == left_out[2]
    assert "failed: out of memory" in left_out[0][0]
    code, out, _ = study("fit", "small")
    assert code == 0
    assert "ViT" in out  # by the names of the report
    assert study("fit", plan.study_id)[:2] == (0, out), "by its id, whose end looks like the suffix of a file"
    (tmp_path / "small").mkdir()
    assert study("fit", "small")[:2] == (0, out), "a folder of this name is no table"
    code, _, err = study("fit", "mine.csv", "--x", "train_flops")
    assert code == 2
    assert "--x train_flops: say at which size with --num-train; there are 64, 256" in err
    code, out, _ = study("fit", "mine.csv", "--x", "train_flops", "--num-train", 256, "--json")
    assert code == 0
    assert json.loads(out)["column"] == "train_flops"


def test_permuted_cells_of_an_export_are_its_control(tmp_path: Path) -> None:
    plan, store = planned(), Store(tmp_path / "results")
    finish(store, plan)
    frame = records_frame(store.records(plan))
    both = pd.concat([frame, frame.assign(permutation="pixels", test_error=0.4)])
    measured = measured_export(both)
    assert measured.control is not None
    assert set(measured.control.curves) == set(measured.table.curves) == {"vit", "resnet", "mlp"}
    assert (measured.control.curves["vit"].log_error != measured.table.curves["vit"].log_error).all()
    assert measured_export(frame).control is None
    alone = measured_export(frame.assign(permutation="pixels"))
    assert alone.control is None
    assert "All images are permuted (pixels)." in alone.table.notes
    interactions = analyse(measured.table, control=measured.control, pair=("resnet", "vit")).interactions
    assert {interactions[0].first, interactions[0].second} == {"resnet", "vit"}


def test_a_control_in_another_file(study: Call, tmp_path: Path) -> None:
    frame = pd.read_csv(EXAMPLE, comment="#")
    frame.assign(error=0.5 + 0.1 * frame["error"]).to_csv(tmp_path / "permuted.csv", index=False)
    code, out, _ = study("fit", EXAMPLE, "--control", "permuted.csv")
    assert code == 0
    assert "Compared with permuted pixels, the structure of the images helps convolution more at" in out


MISTAKES = {
    "no such file": (["no.csv"], r"no.csv is not a file; expected a table as .csv or .parquet"),
    "neither file nor study": (["nothing"], r"nothing is neither a file nor a study of the store: no study 'nothing'"),
    "no such column": (["t.csv", "--x", "flops"], r"--x: the table has no column 'flops'; it has family, num_train"),
    "not a table": (["t.parquet"], r"t.parquet cannot be read as a table"),
    "empty": (["empty.csv"], r"empty.csv is empty; expected a header and rows"),
    "text": (["text.csv"], r"row 2: error is 'low'; expected a number"),
    "percent": (["percent.csv"], r"row 1: error is 20, and a rate is between 0 and 1"),
    "unknown pair": (["t.csv", "--pair", "a,c"], r"--pair: the table has no family 'c'; it has a, b"),
    "half a pair": (["t.csv", "--pair", "a"], r"--pair is 'a'; expected two families"),
    "confidence": (["t.csv", "--confidence", "95"], r"--confidence is 95; expected a number between 0 and 1"),
    "chance": (["t.csv", "--chance", "0"], r"--chance is 0; expected the error of guessing"),
    "infinite chance": (["t.csv", "--chance", "inf"], r"--chance is inf; expected the error of guessing"),
    "negative x": (["t.csv", "--at", "-1"], r"--at is -1; expected a positive number"),
    "figure": (["t.csv", "--figure", "a.doc"], r"--figure is a.doc; expected a name that ends in .png or .svg"),
    "size": (["t.csv", "--num-train", "10"], r"--num-train belongs to studies"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_message_and_exit_code_2(study: Call, tmp_path: Path, name: str) -> None:
    header = "family,num_train,error\n"
    files = {
        "t.csv": header + "a,10,.2\nb,10,.3\n",
        "t.parquet": "no parquet",
        "empty.csv": "",
        "text.csv": header + "a,10,.2\nb,10,low\n",
        "percent.csv": header + "a,10,20\nb,10,30\n",
    }
    for file, content in files.items():
        (tmp_path / file).write_text(content)
    args, says = MISTAKES[name]
    code, out, err = study("fit", *args)
    assert (code, out) == (2, "")
    assert re.match(f"error: {says}", err), err
    assert err.count("error:") == 1


def test_a_figure_of_nothing_is_refused(study: Call, tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("family,num_train,error\na,10,\nb,10,\n")
    code, _, err = study("fit", "none.csv", "--figure", "none.png")
    assert code == 2
    assert "nothing to draw" in err
    assert not (tmp_path / "none.png").exists()


def test_figures_of_any_x(study: Call, tmp_path: Path) -> None:
    frame = pd.read_csv(EXAMPLE, comment="#").rename(columns={"num_train": "train_flops"})
    frame.assign(train_flops=frame["train_flops"] * 1e9).to_parquet(tmp_path / "flops.parquet")
    code, _, _ = study("fit", "flops.parquet", "--figure", "flops.png", "--at", 1e12)
    assert code == 0
    assert (tmp_path / "flops.png").read_bytes().startswith(b"\x89PNG")


def test_calibration_prints_rates_and_what_is_required(study: Call) -> None:
    code, out, _ = study("bench", "calibration", "--studies", 2, "--replicates", "3,5", "--processes", 1, "--json",
                         "--interpolation", "linear")  # fmt: skip
    content = json.loads(out)
    assert code == (0 if all(one["met"] for one in content["required"]) else 3)
    assert {row["num_replicates"] for row in content["rates"]} == {3, 5}
    assert len({row["scenario"] for row in content["rates"]}) == 9
    code, out, _ = study("bench", "calibration", "--studies", 1, "--replicates", "3", "--processes", 1)
    assert code == 0  # nothing is required of three replicates
    assert "confidence set contains N*" in out
    code, _, err = study("bench", "calibration", "--replicates", "1,x")
    assert code == 2
    assert "--replicates is '1,x'; expected numbers from 2 up" in err


def test_the_time_of_an_analysis(study: Call) -> None:
    code, out, _ = study("bench", "fit", "--families", 2, "--sizes", 4, "--replicates", 3)
    assert code == 0
    assert re.match(r"2 families x 4 sizes x 3 replicates, one test set of 2,000 images: \d+\.\d s \(\d+ answers", out)


def test_a_negative_seed_is_refused(study: Call) -> None:
    code, _, err = study("fit", EXAMPLE, "--seed", -1)
    assert code == 2
    assert "--seed" in err


def test_intervals_beyond_all_numbers_are_unlimited(study: Call, tmp_path: Path) -> None:
    rows = "".join(f"{family},{x},{error},50\n" for family in "ab" for x, error in ((10, 0.3), (100, 0.1)))
    (tmp_path / "wide.csv").write_text("family,num_train,error,stderr\n" + rows)
    code, out, _ = study("fit", "wide.csv", "--confidence", 0.9999)
    assert code == 0
    assert "unlimited" in out
