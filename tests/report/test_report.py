"""The report: same bytes from same records, honest about what is missing, nothing fetched from outside."""

from __future__ import annotations

import dataclasses
import html
import html.parser
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from report.cards import CARD
from report.synthetic import failed_record, make_record, predictions_of, study_records
from studies.records import Record, records_frame
from studies.report import write_report
from studies.report.page import render_page
from studies.report.tables import missing_table


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return study_records(replicates=3)


@pytest.fixture(scope="module")
def report(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(records, CARD, folder)
    return folder


PAIR = ("vit", "resnet")


def small(records: list[Record], *families: str) -> list[Record]:
    """Two families at two sizes: enough where the words are looked at, and a fraction of the figures and fits."""
    return [r for r in records if r.cell["family"] in families and r.cell["num_train"] in (128, 512)]


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]


def _files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_neither_order_nor_hash_seed_changes_a_byte(report: Path, tmp_path: Path) -> None:
    """The same records, reversed, in a process whose sets and dictionaries of strings are ordered otherwise."""
    code = (
        "import sys; from pathlib import Path; from report.cards import CARD; "
        "from report.synthetic import study_records; from studies.report import write_report; "
        "write_report(study_records(replicates=3)[::-1], CARD, Path(sys.argv[1]))"
    )
    tests = Path(__file__).parents[1]
    search = os.pathsep.join([str(tests.parent), str(tests)])
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": search}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True)
    files, again = _files(report), _files(tmp_path)
    assert len([name for name in files if name.suffix == ".svg"]) == 10
    assert set(files) == set(again)
    assert [name for name in files if files[name] != again[name]] == []


def test_page_is_self_contained(report: Path) -> None:
    text = (report / "index.html").read_text()
    links = _Links()
    links.feed(text)
    assert len([target for target in links.targets if target.startswith("data:image/svg+xml")]) == 10
    assert all(target.startswith("data:") for target in links.targets)
    assert not {"script", "iframe", "object", "embed"} & set(links.tags)
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert "&lt;position&gt;" in text


def test_every_figure_and_table_is_on_the_page(report: Path) -> None:
    text = (report / "index.html").read_text()
    for path in report.glob("figures/*.png"):
        assert f'<figure id="{path.stem}">' in text, path
    for path in report.glob("tables/*.md"):
        title = path.read_text().splitlines()[0].removeprefix("### ")
        assert f"<h3>{html.escape(title)}</h3>" in text, path


def test_complete_study_answers_first_and_mentions_no_gap(report: Path) -> None:
    text = (report / "index.html").read_text()
    assert "incomplete" not in text
    assert text.index("ViT overtakes ResNet at") < text.index("<h2>Data curves</h2>")
    assert "every planned cell is in the curves" in text
    assert "Learning rates were not tuned." in text
    assert "0011aabb" * 8 in text


def test_what_is_behind_the_answers_is_folded(report: Path) -> None:
    text = (report / "index.html").read_text()
    for heading in ("Every finding", "Methods", "Provenance", "At the full budget"):
        assert f'<details class="section"><summary><h2>{heading}</h2></summary>' in text
    assert "<details open" not in text


def test_the_answers_are_there_for_machines(report: Path) -> None:
    answers = json.loads((report / "answers.json").read_text())
    findings = answers["by_rule"]["selected"]["findings"]
    (crossover,) = [one for one in findings if one["kind"] == "Crossover" and one["first"] == "resnet"
                    and one["second"] == "vit"]  # fmt: skip
    assert crossover["decision"] == "crosses"
    assert crossover["statement"].startswith("vit overtakes resnet at")


def test_partial_study_says_what_is_missing(records: list[Record], report: Path, tmp_path: Path) -> None:
    kept = [r for r in records if not (r.cell["family"] == "mlp" and r.cell["num_train"] == 8192)]
    kept.append(failed_record("mlp", num_train=8192, replicate=0, reason="out of memory <at step 3>"))
    paths = write_report(kept, CARD, tmp_path)
    assert paths.statements[0].startswith(
        "This study is incomplete: 45 of 48 planned cells are finished, 1 failed, 2 not trained yet"
    )
    table = (tmp_path / "tables" / "left_out.md").read_text()
    assert f"| mlp | 8,192 | 0 | {kept[-1].cell_id} | failed: out of memory <at step 3> |" in table
    assert table.startswith("### Cells that failed, diverged, were left out or not trained\n")
    assert "| mlp | 8,192 | 2 |  | not trained yet |" in table
    assert "out of memory &lt;at step 3&gt;" in (tmp_path / "index.html").read_text()
    for file in ("figures/data_curves.svg", "figures/data_curves.png", "tables/test_error_selected.md", "index.html"):
        assert (report / file).read_bytes() != (tmp_path / file).read_bytes(), file


def test_the_table_of_troubled_cells_fits_on_the_page() -> None:
    """Its reasons wrap, and the id that `study logs` takes stands before them, where no reason pushes it away."""
    failed = failed_record(reason="out of memory: " + "/a/path/without/any/space" * 20)
    table = missing_table(records_frame([make_record(replicate=1), failed]), dataclasses.replace(CARD, num_cells=2))
    assert [row[-2:] for row in table.rows] == [(failed.cell_id, f"failed: {failed.reason}")]
    assert table.columns[-2:] == ("Cell", "Reason")
    assert '<table class="prose">' in table.html()
    assert ".prose td:last-child { overflow-wrap: anywhere; }" in render_page(CARD, "", [], [])


def test_single_answers_say_what_they_leave_out(records: list[Record], tmp_path: Path) -> None:
    """An arm with fewer replicates is compared on those it has, and the table names the others."""
    kept = [r for r in small(records, "resnet", "mlp") if not (r.cell["family"] == "mlp" and r.cell["replicate"] == 2)]
    write_report(kept, CARD, tmp_path)
    table = (tmp_path / "tables" / "left_out_of_answers.md").read_text()
    assert "| Crossover of ResNet and Fully connected | replicate 2 of resnet | mlp has no such replicate |" in table


def test_one_replicate_has_no_interval(tmp_path: Path) -> None:
    records = small(study_records(replicates=1), *PAIR)
    paths = write_report(records, dataclasses.replace(CARD, num_cells=len(records)), tmp_path)
    assert "without replicates nothing more can be said" in paths.statements[0]
    text = (tmp_path / "tables" / "test_error_selected.md").read_text()
    assert "±" not in text.split("Percent of")[0]
    assert "A single replicate has no interval." in text
    assert " 95% interval 0" not in paths.page.read_text()


def test_one_size_and_no_pair(tmp_path: Path) -> None:
    card = dataclasses.replace(CARD, num_cells=3, primary_pair=None, floor=None, bayes_error=None)
    paths = write_report([make_record("vit", replicate=index, error=0.2) for index in range(3)], card, tmp_path)
    assert paths.statements == ("Only ViT was measured; its mean error is 20.0% with 512 images.",)
    assert "| ViT | 20.0 ± 0.0 | 3 |" in (tmp_path / "tables" / "test_error_selected.md").read_text()
    assert not (tmp_path / "figures" / "data_multiplier.svg").exists()


def test_two_sizes_are_compared_and_not_fitted(records: list[Record], tmp_path: Path) -> None:
    card = dataclasses.replace(CARD, num_cells=12)
    paths = write_report(small(records, *PAIR), card, tmp_path)
    assert "ResNet" in paths.statements[0]
    assert not (tmp_path / "figures" / "fitted_curves.svg").exists()
    assert "| none |" in (tmp_path / "tables" / "fits_selected.md").read_text()


def test_a_pair_that_never_finished_leaves_the_others(records: list[Record], tmp_path: Path) -> None:
    paths = write_report(small(records, "mixer", "mlp"), CARD, tmp_path)
    assert "incomplete" in paths.statements[0]
    assert "MLP-Mixer" in paths.statements[1]


@pytest.mark.parametrize("records", [[], [failed_record("vit"), failed_record("resnet")]], ids=["none", "all failed"])
def test_no_finished_cell_gives_a_page_without_figures(records: list[Record], tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "data_curves.png").write_bytes(b"of an earlier state")
    paths = write_report(records, CARD, tmp_path)
    assert paths.figures == ()
    assert not (tmp_path / "figures" / "data_curves.png").exists()
    assert "there is nothing to show yet" in paths.page.read_text()


def test_diverged_and_error_free_cells_are_drawn(tmp_path: Path) -> None:
    records = small(study_records(replicates=2), *PAIR)
    records[0] = make_record(num_train=128, branch_errors=[0.5] * 4, status="diverged", reason="loss nan at step 40")
    records[1] = make_record(num_train=128, replicate=1, branch_errors=[0.1, 0.05, 0.01, 0.0])
    write_report(records, dataclasses.replace(CARD, num_cells=8), tmp_path)
    assert "| 25.0 † |" in (tmp_path / "tables" / "test_error_selected.md").read_text()
    assert "diverged, at chance where it did: loss nan at step 40" in (tmp_path / "tables" / "left_out.md").read_text()


def test_shared_test_set_reads_predictions(tmp_path: Path) -> None:
    records = small(study_records(replicates=2, shared_test=True, num_test=200), *PAIR)
    predictions = {record.cell_id: tmp_path / f"{record.cell_id}.npz" for record in records}
    for seed, record in enumerate(records):
        np.savez(predictions[record.cell_id], **predictions_of(record, seed=seed))
    card = dataclasses.replace(CARD, num_cells=8)
    page = write_report(records, card, tmp_path / "report", predictions).page.read_text()
    assert "intervals of comparisons include its variance" in page
    assert (
        "comparisons hold for this test set only" in write_report(records, card, tmp_path / "without").page.read_text()
    )


def test_report_loads_nothing_that_trains() -> None:
    code = (
        "import sys, studies.report.write, studies.bundle, studies.export; "
        "import studies.tracking.mirror, studies.tracking.live, studies.tracking.client; "
        "print(sorted({'torch', 'pytorch_lightning', 'timm', 'datasets', 'hydra', 'wandb'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
