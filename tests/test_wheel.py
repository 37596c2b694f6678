"""The wheel, unpacked elsewhere and run from an empty folder, is the whole program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "datamodules", "studies", "configs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    outcome = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    (built,) = folder.glob("*.whl")
    return built


def tracked(suffix: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob(f"*{suffix}")}


def test_the_wheel_holds_every_module_and_every_configuration_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = {name.split("/")[-1] for name in archive.namelist() if ".dist-info/" in name}
    assert len(tracked(".yaml")) > 15
    assert names == tracked(".py") | tracked(".yaml") | tracked("py.typed")
    assert {"METADATA", "entry_points.txt", "LICENSE"} <= metadata


def test_the_wheel_installs_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        points = ConfigParser()
        points.read_string(archive.read(entry).decode())
    assert dict(points["console_scripts"]) == {"study": "studies.__main__:main"}


PLAN = """
import sys
from pathlib import Path
import configs, datamodules, models, studies

for package in (configs, datamodules, models, studies):
    assert Path(package.__file__).is_relative_to(sys.argv[1]), package.__file__
sys.argv[1:] = ["plan", "data_scaling", "--no-timing", "--json"]
from studies.cli import main
main()
"""


def test_the_wheel_plans_the_default_study_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # PYTHONPATH stands before the editable install of this checkout, and the code asserts that it won.
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path / "home")}
    outcome = subprocess.run(
        [sys.executable, "-P", "-c", PLAN, str(site)],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    plan = json.loads(outcome.stdout)
    assert plan["study_id"].startswith("data_scaling.")
    assert len(plan["cells"]) >= 5 * 3 * 4
    assert plan["done"] == []
    assert str(ROOT) not in outcome.stdout + outcome.stderr
    assert list(empty.iterdir()) == []  # planning writes nothing
