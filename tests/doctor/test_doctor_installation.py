"""What the doctor finds in installations that are really broken: folders of packages put before the true ones."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from studies.doctor import graphics, libraries, packages
from studies.doctor.children import ask
from studies.doctor.finding import Finding


def distribution(folder: Path, name: str, version: str, *requires: str) -> None:
    """The metadata of an installed distribution."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def module(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "__init__.py").write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that comes before all others, here and in children."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    return folder


def broken(found: list[Finding]) -> list[str]:
    return [one.found for one in found if one.level == "broken"]


def test_a_mismatched_torchvision_is_found_by_metadata_and_by_trying(site: Path) -> None:
    distribution(site, "torch", "2.15.0")
    distribution(site, "torchvision", "0.20.0", "torch==2.5.0")
    module(site, "torch", "")
    module(site, "torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    module(site, "timm", "import torchvision")
    assert "torchvision 0.20.0 needs torch==2.5.0, which is 2.15.0" in broken(list(packages.agreement()))
    assert any(told.startswith("torchvision 0.20.0 where >=") for told in broken(list(packages.versions())))
    found = list(libraries.libraries({name: name for name in ("torch", "torchvision", "timm")}))
    assert broken(found) == [
        "torchvision cannot be imported (RuntimeError: operator torchvision::nms does not exist)",
        "timm cannot be imported either",
    ]
    assert found[0].advice == libraries.TORCHVISION_ADVICE
    assert found[1].advice == "mend torchvision first"


def test_a_library_that_kills_its_process_costs_no_other_its_trial(site: Path) -> None:
    module(site, "killing", "import os, signal\nos.kill(os.getpid(), signal.SIGILL)")
    module(site, "leaving", "import os\nos._exit(3)")
    module(site, "exiting", "raise SystemExit(0)")
    module(site, "talking", 'print(\'finding:{"name": "not me"}\')')
    problems = libraries.imports(["json", "killing", "leaving", "exiting", "talking", "nowhere"])
    assert problems["json"] == problems["talking"] == ""
    assert problems["killing"] == f"the process that imports it ends: signal {int(signal.SIGILL)}"
    assert problems["leaving"] == "the process that imports it ends: exit code 3"
    assert problems["exiting"].startswith("SystemExit")
    assert problems["nowhere"].startswith("ModuleNotFoundError")


def test_a_library_that_hangs_is_given_up(site: Path) -> None:
    module(site, "hanging", "import time\ntime.sleep(60)")
    assert libraries.imports(["hanging"], patience=0.5)["hanging"].endswith("did not end within 0.5 s")


@pytest.mark.parametrize("name", ["pytorch-lightning", "lightning"])
@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_a_malicious_lightning_is_named_and_never_imported(site: Path, name: str, version: str) -> None:
    marker = site / "imported"
    distribution(site, name, version)
    module(site, name.replace("-", "_"), f"open({str(marker)!r}, 'w')")
    (told,) = packages.security()
    assert told.level == "broken"
    assert f"{name} {version} carries malicious code (GHSA-w37p-236h-pfx3)" in told.found
    list(libraries.libraries({name: name.replace("-", "_"), "json": "json"}))
    assert not marker.exists()


def test_versions_are_held_against_the_bounds_of_this_package(site: Path) -> None:
    assert broken(list(packages.versions())) == []
    distribution(site, "timm", "0.9.0")
    assert broken(list(packages.versions())) == ["timm 0.9.0 where >=1.0.26 is needed"]
    distribution(site, packages.PACKAGE, "0.1.0", "not-there-at-all>=1", "json5; extra == 'dev'")
    assert "not-there-at-all is missing (>=1 is needed)" in broken(list(packages.versions()))


def test_a_package_installed_twice_in_one_folder_is_a_leftover(site: Path) -> None:
    assert broken(list(packages.doubles())) == []
    distribution(site, "scipy", "1.0.0")
    assert broken(list(packages.doubles())) == [], "one in each of two folders: the first one counts"
    distribution(site, "scipy", "1.1.0")
    assert broken(list(packages.doubles())) == ["installed twice in one folder: scipy"]


def test_packages_of_another_project_with_our_names_are_found(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert broken(list(packages.names())) == []
    module(site, "configs", "")
    monkeypatch.delitem(sys.modules, "configs", raising=False)
    (told,) = broken(list(packages.names()))
    assert told.startswith(f"configs is that of {site / 'configs'}")


def test_messages_of_a_child_are_not_mixed_up_with_its_answers() -> None:
    answer = ask("import sys; print('noise'); print('finding:{\"a\": 1}'); sys.exit('why\\x1b[2J')")
    assert (answer.lines, answer.problem) == (({"a": 1},), "why\\x1b[2J")


# --- graphics --------------------------------------------------------------------------------------------------

TORCH = """
class version:
    cuda = {cuda!r}
    hip = None
class cuda:
    def device_count(): return {count}
    def init(): {init}
    def get_device_name(index): return "H200"
__version__ = "2.15.0"
"""


@pytest.mark.parametrize(
    ("cuda", "count", "init", "level", "says"),
    [
        ("13.0", 2, "pass", "fine", "2 GPUs: H200"),
        (None, 0, "pass", "warning", "is built without CUDA: cells train on the CPU"),
        ("13.0", 0, "pass", "broken", "(CUDA 13.0) sees 0"),
        ("13.0", 2, "raise RuntimeError('The NVIDIA driver is too old')", "broken", "The NVIDIA driver is too old"),
    ],
)
def test_gpus_of_the_system_are_held_against_those_of_torch(
    site: Path, tmp_path: Path, cuda: str | None, count: int, init: str, level: str, says: str
) -> None:
    devices = tmp_path / "dev"
    devices.mkdir()
    assert [one.found for one in graphics.gpus(devices)] == ["none; cells train on the CPU"]
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (devices / name).touch()
    module(site, "torch", TORCH.format(cuda=cuda, count=count, init=init))
    (told,) = graphics.gpus(devices)
    assert (told.level, says in told.found) == (level, True), told
    assert told.advice or level == "fine"


def test_hidden_gpus_are_a_choice_and_a_torch_that_cannot_start_is_not(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia0").touch()
    module(site, "torch", TORCH.format(cuda="13.0", count=0, init="pass"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    (told,) = graphics.gpus(tmp_path)
    assert (told.level, "CUDA_VISIBLE_DEVICES=-1" in told.found) == ("warning", True)
    module(site, "torch", "raise ImportError('libcudart.so.13: cannot open shared object file')")
    (told,) = graphics.gpus(tmp_path)
    assert (told.level, "libcudart.so.13" in told.found) == ("broken", True)
