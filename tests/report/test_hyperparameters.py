"""What a tuned study was trained with, and what finding that cost, on its page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from report.synthetic import make_record
from studies.report import StudyCard, write_report
from studies.tuned import Citation

CARD = StudyCard(
    name="tuned",
    study_id="tuned.0011aabb",
    question="Who wins?",
    plan_hash="0011aabb" * 8,
    protocol_version="1",
    num_cells=4,
    primary_pair=None,
    chance_error=0.5,
    data_name="dial",
    bayes_error=None,
    floor=None,
    num_validation=2000,
)


def test_a_tuned_study_shows_its_values_their_source_and_their_cost(tmp_path: Path) -> None:
    records = [make_record(family, num_train=size) for family in ("vit", "resnet") for size in (128, 512)]
    changed = records[0].cell | {"learning_rate": 0.0042, "weight_decay": 0.2}
    records[0] = records[0].model_copy(update={"cell": changed})
    cited = Citation(name="dial <16>", sha256="0123456789abcdef" * 4, trials=48, cells=80, train_flops=3 * 10**12)
    write_report(records, dataclasses.replace(CARD, tuning=cited, executed_flops=2 * 10**12), tmp_path)
    table = (tmp_path / "tables" / "tuned.md").read_text()
    assert "| ViT | 0.0042 / 0.2 | 0.001 / 0.05 |" in table
    assert "| ResNet | 0.002 / 0.05 | 0.002 / 0.05 |" in table
    assert "48 trials, 80 cells and 3e+12 training FLOPs, 150% of those of this study" in table
    page = (tmp_path / "index.html").read_text()
    assert "dial &lt;16&gt;, sha256 " + cited.sha256 in page
    assert "Tuned hyper-parameters" in page


def test_a_study_without_a_tuning_has_no_such_table(tmp_path: Path) -> None:
    write_report([make_record("vit"), make_record("resnet")], CARD, tmp_path)
    assert not (tmp_path / "tables" / "tuned.md").exists()
    assert "Tuned hyper-parameters" not in (tmp_path / "index.html").read_text()
