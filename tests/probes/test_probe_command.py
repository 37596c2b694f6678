"""`study probe` on the command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from probed_study import small_plan, train_all
from typer.testing import CliRunner

import studies
from studies.cli import app
from studies.errors import ConfigError, ExitCode
from studies.grid import Plan
from studies.probes.catalogue import KINDS
from studies.probes.study_probing import ProbingResult
from studies.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_is_there_is_told_and_nothing_computed_again(plan: Plan, probed_copy: Store) -> None:
    root = str(probed_copy.root)
    found = CliRunner().invoke(app, ["probe", "small", "--store", root, "--workers", "1"])
    assert found.exit_code == ExitCode.OK, found.output
    assert "first_layer: what the first layer looks for; mean over replicates ± 95% t-interval" in found.stdout
    assert f"{plan.study_id}: probes, 88 of 88 results: shift_consistency 12 of 12" in found.stdout
    assert "test split" not in found.stderr
    assert f"writing the report of {plan.study_id}" in found.stderr
    found = CliRunner().invoke(app, ["probe", "small", "--probes", "few_shot", "--store", root, "--workers", "1"])
    assert f"{plan.study_id}: probes, 12 of 12 results: few_shot 12 of 12" in found.stdout
    assert "few_shot reads the test split" in found.stderr
    found = CliRunner().invoke(app, ["probe", "small", "--probes", "first_layer", "--store", root, "--json"])
    told = json.loads(found.stdout)
    assert told["computed"] == 0
    assert told["results"] == {"first_layer": {"done": 12, "asked": 12}}
    values = {(row["arm"], row["size"], row["weights"], row["quantity"]) for row in told["summary"]}
    assert len(values) == len(told["summary"]) == 2 * 2 * 2 * 2


def test_status_and_export_know_of_the_results(plan: Plan, probed_copy: Store, tmp_path: Path) -> None:
    root = str(probed_copy.root)
    shutil.rmtree(next((probed_copy.root / "probes").iterdir()))
    found = CliRunner().invoke(app, ["status", "small", "--store", root])
    assert "probes: 99 of 100 results" in found.stdout
    told = json.loads(CliRunner().invoke(app, ["status", "small", "--store", root, "--json"]).stdout)
    assert sum(one["done"] for one in told["probes"].values()) == 99
    found = CliRunner().invoke(app, ["export", "small", "--store", root, "--output", str(tmp_path / "out")])
    assert found.exit_code == ExitCode.OK
    frame = pd.read_parquet(tmp_path / "out" / f"{plan.study_id}.probes.parquet")
    assert set(frame["weights"]) == {"trained", "initial"}


def test_exit_codes_say_what_is_missing(tmp_path: Path) -> None:
    plan, store = small_plan(families=["mlp"], replicates=1, num_train=[40]), Store(tmp_path / "store")
    train_all(plan, store)
    with pytest.raises(ConfigError, match="there is no probe 'guess'"):
        CliRunner().invoke(
            app, ["probe", "small", "--probes", "guess", "--store", str(store.root)], catch_exceptions=False
        )
    command = ["probe", "small", "--probes", "first_layer", "--store", str(store.root), "--workers", "1"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == ExitCode.INCOMPLETE
    assert "1 cell of 1 without the weights to probe" in found.stdout


def test_the_same_in_python(plan: Plan, probed: tuple[Store, ProbingResult]) -> None:
    result = studies.probe("small", probed[0].root, probes=["first_layer"], workers=1)
    assert result.probing.computed == 0
    pd.testing.assert_frame_equal(
        result.frame, studies.probe_frame(plan, probed[0]).query("probe == 'first_layer'").reset_index(drop=True)
    )


def test_the_help_names_every_probe_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    told = CliRunner().invoke(app, ["probe", "--help"]).output
    assert max(map(len, told.splitlines())) <= 80
    assert "…" not in told
    assert all(f" {name}: " in told for name in KINDS)
