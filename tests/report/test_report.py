"""The report: same bytes from same records, honest about what is missing, nothing fetched from outside."""

from __future__ import annotations

import dataclasses
import html.parser
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from report.synthetic import CURVES, failed_record, make_record, power_error, predictions_of, study_records
from studies.curves import observed_crossing
from studies.records import Record, records_frame
from studies.report import StudyCard, write_report
from studies.report.axes import error_axis, new_figure, print_style, spread_apart
from studies.report.figures import looks_of, plot_curves
from studies.report.palette import FAMILY_LOOKS, arm_looks, size_label, size_labels
from studies.report.statements import crossing_statement, reservation_statements
from studies.report.tables import cost_table, error_table, percent, settings_table

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


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return study_records(replicates=3)


@pytest.fixture(scope="module")
def report(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(records, CARD, folder)
    return folder


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]


def test_same_records_give_the_same_bytes(records: list[Record], report: Path, tmp_path: Path) -> None:
    write_report(list(reversed(records)), CARD, tmp_path)
    files = sorted(path.relative_to(report) for path in report.rglob("*") if path.is_file())
    assert len(files) == 12 + 9 + 1
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for file in files:
        assert (report / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_page_is_self_contained(report: Path) -> None:
    text = (report / "index.html").read_text()
    links = _Links()
    links.feed(text)
    assert len([target for target in links.targets if target.startswith("data:image/svg+xml")]) == 6
    assert all(target.startswith("data:") for target in links.targets)
    assert not {"script", "iframe", "object", "embed"} & set(links.tags)
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert "&lt;position&gt;" in text


def test_complete_study_answers_first_and_mentions_no_gap(report: Path) -> None:
    text = (report / "index.html").read_text()
    assert "incomplete" not in text
    assert text.index("The data curves of ResNet and ViT cross") < text.index("<h2>")
    assert "every planned cell is in the curves" in text
    assert "Learning rates were not tuned." in text
    assert "0011aabb" * 8 in text


def test_partial_study_says_what_is_missing(records: list[Record], report: Path, tmp_path: Path) -> None:
    kept = [r for r in records if not (r.cell["family"] == "mlp" and r.cell["num_train"] == 8192)]
    kept.append(failed_record("mlp", num_train=8192, replicate=0, reason="out of memory <at step 3>"))
    paths = write_report(kept, CARD, tmp_path)
    assert paths.statements[0].startswith(
        "This study is incomplete: 45 of 48 planned cells are finished, 1 failed, 2 not trained yet"
    )
    table = (tmp_path / "tables" / "left_out.md").read_text()
    assert "| mlp | 8,192 | 0 | failed: out of memory <at step 3> |" in table
    assert "| mlp | 8,192 | 2 | not trained yet |" in table
    assert "out of memory &lt;at step 3&gt;" in (tmp_path / "index.html").read_text()
    for file in ("figures/data_curves.svg", "figures/data_curves.png", "tables/test_error_selected.md", "index.html"):
        assert (report / file).read_bytes() != (tmp_path / file).read_bytes(), file


def test_one_replicate_has_no_interval(tmp_path: Path) -> None:
    paths = write_report(study_records(replicates=1), dataclasses.replace(CARD, num_cells=16), tmp_path)
    assert "not resolved: one replicate gives no interval" in paths.statements[0]
    text = (tmp_path / "tables" / "test_error_selected.md").read_text()
    assert "±" not in text.split("Percent of")[0]
    assert "A single replicate has no interval." in text


def test_one_size_and_no_pair(tmp_path: Path) -> None:
    card = dataclasses.replace(CARD, num_cells=3, primary_pair=None, floor=None, bayes_error=None)
    paths = write_report([make_record("vit", replicate=index, error=0.2) for index in range(3)], card, tmp_path)
    assert paths.statements == ("With 512 training images the lowest mean error is that of ViT: 20.0 ± 0.0%.",)


@pytest.mark.parametrize("records", [[], [failed_record("vit"), failed_record("resnet")]], ids=["none", "all failed"])
def test_no_finished_cell_gives_a_page_without_figures(records: list[Record], tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "data_curves.png").write_bytes(b"of an earlier state")
    paths = write_report(records, CARD, tmp_path)
    assert paths.figures == ()
    assert not (tmp_path / "figures" / "data_curves.png").exists()
    assert "there is nothing to show yet" in paths.page.read_text()


def test_diverged_and_error_free_cells_are_drawn(tmp_path: Path) -> None:
    records = study_records(sizes=(128, 512), replicates=2)
    records[0] = make_record(num_train=128, branch_errors=[0.5] * 4, status="diverged", reason="loss nan at step 40")
    records[1] = make_record(num_train=128, replicate=1, branch_errors=[0.1, 0.05, 0.01, 0.0])
    write_report(records, dataclasses.replace(CARD, num_cells=16), tmp_path)
    assert "25.0 ± 317.7 †" in (tmp_path / "tables" / "test_error_selected.md").read_text()
    assert "diverged, at chance where it did: loss nan at step 40" in (tmp_path / "tables" / "left_out.md").read_text()


def test_shared_test_set_reads_predictions(tmp_path: Path) -> None:
    records = study_records(sizes=(128, 512), replicates=2, shared_test=True, num_test=200)
    predictions = {record.cell_id: tmp_path / f"{record.cell_id}.npz" for record in records}
    for seed, record in enumerate(records):
        np.savez(predictions[record.cell_id], **predictions_of(record, seed=seed))
    card = dataclasses.replace(CARD, num_cells=16)
    page = write_report(records, card, tmp_path / "report", predictions).page.read_text()
    assert "the paired differences include its variance" in page
    without = observed_crossing(records_frame(records), "resnet", "vit")
    text = " ".join(reservation_statements(records_frame(records), card, [without]))
    assert "the paired differences hold for this test set only" in text


def test_error_table_rows() -> None:
    table = error_table(records_frame(make_record(replicate=i, error=e) for i, e in enumerate([0.2, 0.22])))
    assert table.columns == ("Arm", "N = 512", "Replicates")
    assert table.rows == (("ViT", "21.0 ± 12.7", "2"),)
    assert "| ViT | 21.0 ± 12.7 | 2 |" in table.markdown()


def test_cost_table_flags_exact_flops_beyond_five_percent(records: list[Record]) -> None:
    rows = {row[0]: row for row in cost_table(records_frame(records)).rows}
    assert rows["ViT"][4] == "1.0000 – 1.0000"
    assert "differs" not in rows["ResNet"][5]
    assert rows["Fully connected"][5].endswith("(differs)")
    assert rows["Fully connected"][6] == "12 – 14 on cpu"
    off = records[0].branches[0].model_copy(update={"train_flops": int(records[0].branches[0].train_flops * 1.004)})
    moved = records[0].model_copy(update={"branches": (off, *records[0].branches[1:])})
    rows = {row[0]: row for row in cost_table(records_frame([moved, *records[1:]])).rows}
    assert rows["ViT"][4] == "1.0000 – 1.0040"


def test_settings_table(records: list[Record]) -> None:
    assert settings_table(records_frame(records)).rows[1][:4] == ("ResNet", "0.002", "0.05", "128")


def test_reservations_name_what_records_show(records: list[Record]) -> None:
    odd = [record.model_copy(update={"protocol_version": "0", "subset_hash": record.cell_id}) for record in records]
    text = " ".join(reservation_statements(records_frame(odd), CARD, []))
    assert "protocol 1, records made under 0" in text
    assert "pairing is broken" in text
    assert "Compute-limited" in text
    assert "rest on 3 replicates" in text
    text = " ".join(reservation_statements(records_frame(records), CARD, []))
    assert "pairing" not in text
    assert "Exact training FLOPs differ by up to 23% between arms" in text


def test_crossing_statements() -> None:
    apart = {"vit": power_error(4, 0.4), "resnet": power_error(3, 0.4)}
    frame = records_frame(study_records(apart, replicates=3, noise=0.001))
    text = crossing_statement(observed_crossing(frame, "resnet", "vit"), looks_of(frame))
    assert text.startswith(
        "ResNet has the lower error than ViT at every size from 128 to 8,192: no crossing up to 8,192"
    )
    same = {"vit": power_error(3, 0.4), "resnet": power_error(3, 0.4)}
    frame = records_frame(study_records(same, replicates=3, noise=0.1))
    text = crossing_statement(observed_crossing(frame, "resnet", "vit"), looks_of(frame))
    assert "is not resolved: the 95% interval of the difference includes zero at N = " in text


def test_palette_is_one_colour_per_family() -> None:
    assert len({look.colour for look in FAMILY_LOOKS.values()}) == 6
    assert len({look.marker for look in FAMILY_LOOKS.values()}) == 6
    looks = arm_looks({"resnet-circular": "resnet", "timm:convnext": "timm:convnext", "resnet": "resnet", "vit": "vit"})
    assert list(looks) == ["vit", "resnet", "resnet-circular", "timm:convnext"]
    assert looks["resnet-circular"].colour == looks["resnet"].colour
    assert looks["resnet-circular"].line != looks["resnet"].line
    assert looks["resnet-circular"].label == "ResNet (circular)"
    assert looks["timm:convnext"].colour not in {look.colour for look in FAMILY_LOOKS.values()}


def test_size_labels() -> None:
    assert [size_label(n) for n in (128, 512, 2048, 2000, 1448, 32768, 50000)] == [
        "128", "512", "2k", "2k", "1.45k", "32k", "50k",
    ]  # fmt: skip
    assert size_labels([2000, 2048]) == ["2,000", "2,048"]


def test_labels_are_moved_apart_and_keep_their_order() -> None:
    placed = spread_apart([0.1, 0.5, 0.5, 0.51, 0.9], 0.1)
    assert placed == sorted(placed)
    assert min(b - a for a, b in itertools.pairwise(placed)) == pytest.approx(0.1)
    assert (placed[0], placed[-1]) == (0.1, 0.9)


@pytest.mark.parametrize("errors", [(0.11, 0.18), (0.3, 0.31), (0.5, 0.9), (0.0002, 0.4), (0.001, 0.0011)])
def test_error_axes_always_have_ticks_within_their_limits(errors: tuple[float, float]) -> None:
    with print_style():
        axes = new_figure(3, 3).add_subplot()
        error_axis(axes, errors)
    low, high = axes.get_ylim()
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high * 1.001]
    assert 3 <= len(ticks) <= 16
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(set(labels)) == len(labels)


def test_percent() -> None:
    assert percent(0.212, 0.013) == "21.2 ± 1.3"
    assert percent(0.0054) == "0.54"


def test_curve_figure_draws_every_arm_and_reference(records: list[Record]) -> None:
    axes = plot_curves(records_frame(records), CARD).axes[0]
    texts = {text.get_text() for text in axes.texts}
    assert {FAMILY_LOOKS[family].label for family in CURVES} <= texts
    assert "λ = 8.2%, floor of translation invariance" in texts
    assert [label.get_text() for label in axes.get_xticklabels()] == ["128", "512", "2k", "8k"]


def test_two_replicates_have_no_band(records: list[Record]) -> None:
    two = [record for record in records if record.cell["replicate"] < 2]
    for rows, drawn in ((records, True), (two, False)):
        bands = plot_curves(records_frame(rows)).axes[0].collections[::3]
        assert all(bool(len(band.get_paths())) == drawn for band in bands)


def test_report_loads_nothing_that_trains() -> None:
    code = (
        "import sys, studies.report.write, studies.bundle, studies.export; "
        "import studies.tracking.mirror, studies.tracking.live, studies.tracking.client; "
        "print(sorted({'torch', 'pytorch_lightning', 'timm', 'datasets', 'hydra', 'wandb'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
