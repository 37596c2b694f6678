"""What is asked of a queue is checked before anything is submitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from planned import planned
from pydantic import ValidationError

from studies.compose import compose_study
from studies.engine_spec import EngineSpec
from studies.engines.slurm import check_slurm
from studies.errors import ConfigError
from studies.readiness import check_machine
from studies.slurm_spec import SlurmSpec
from studies.store import Store


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("partition", "short\n#SBATCH --wrap=reboot"),
        ("partition", "short\n"),
        ("partition", "--wrap"),
        ("partition", "a b"),
        ("account", "$(reboot)"),
        ("qos", "high'"),
        ("memory", "16"),
        ("memory", "lots"),
        ("tasks", 0),
        ("time_limit", 1),
        ("poll_seconds", 0.1),
        ("setup", ["module load cuda\nreboot"]),
        ("setup", ["module load cuda\rreboot"]),
        ("cpus_per_task", 10**9),
        ("gpus_per_task", 10**9),
        ("additional_parameters", {"export_file": "/tmp/environment"}),
        ("additional_parameters", {"wrap": "reboot"}),
        ("additional_parameters", {"array": "0-9"}),
        ("additional_parameters", {"open_mode": "truncate"}),
        ("additional_parameters", {"--constraint": "a100"}),
        ("additional_parameters", {"Constraint\n": "a100"}),
        ("additional_parameters", {"constraint": "a100\n#SBATCH --wrap=reboot"}),
        ("additional_parameters", {"comment": "it's"}),
        ("additional_parameters", {"exclusive": False}),
    ],
)
def test_what_would_mean_something_else_to_the_queue_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        SlurmSpec.model_validate({field: value})
    assert caught.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"device": "cuda"}, "set gpus_per_task"),
        ({"gpus_per_task": 1, "device": "cpu"}, "contradict"),
        ({"compile": True}, "set gpus_per_task"),
        ({"gpus_per_task": 1, "devices_per_cell": 2}, "cannot be had"),
    ],
)
def test_devices_that_were_not_asked_for_are_not_promised(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SlurmSpec.model_validate(settings)


def test_ordinary_requests_are_passed_on() -> None:
    wanted = SlurmSpec.model_validate(
        {
            "partition": "gpu,long",
            "account": "lab-7",
            "memory": "16G",
            "additional_parameters": {"mail_user": "a@b.org"},
        }
    )
    assert wanted.additional_parameters == {"mail-user": "a@b.org"}


def test_it_is_chosen_by_its_name() -> None:
    composed = compose_study("data_scaling", ["engine=slurm", "engine.partition=gpu"])
    assert composed.engine == SlurmSpec(partition="gpu")
    with pytest.raises(ConfigError, match=r"engine.partitoin: is not a known field; did you mean 'partition'"):
        compose_study("data_scaling", ["engine=slurm", "engine.partitoin=gpu"])


def test_a_node_takes_what_slurm_gave_it_and_no_more() -> None:
    spec = SlurmSpec(cpus_per_task=4, lanes=2, chunk_steps=7)
    assert spec.within_task(has_gpus=False) == EngineSpec(workers=4, device="cpu", lanes=2, chunk_steps=7)
    assert spec.within_task(has_gpus=True) == EngineSpec(lanes=2, chunk_steps=7)  # given by an option of the user's
    assert SlurmSpec(gpus_per_task=2).within_task(has_gpus=True) == EngineSpec()
    assert SlurmSpec(tasks=2, cpus_per_task=2).expected_devices == ["cpu"] * 4
    gpus = SlurmSpec(tasks=2, gpus_per_task=4, devices_per_cell=2, lanes=1)
    assert gpus.expected_devices == ["cuda:0", "cuda:2"] * 2


def test_what_the_launcher_computes_itself_needs_no_gpu() -> None:
    assert SlurmSpec(gpus_per_task=1, device="cuda", tasks=2).here == EngineSpec()
    assert SlurmSpec(device="cpu").here == EngineSpec(device="cpu")


def test_gpus_of_nodes_are_not_looked_for_on_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.engines.slurm.check_slurm", lambda store: None)
    wanted = SlurmSpec(gpus_per_task=1, device="cuda", tasks=3)
    assert check_machine(planned(), wanted, Store(tmp_path)) == ["cuda:0"] * 3


def test_without_submitit_or_slurm_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install -e "\.\[slurm\]"'):
        check_slurm(Store(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs the command sbatch"):
        check_slurm(Store(tmp_path))


@pytest.mark.parametrize("name", ["100%", "it's", 'a"b', "a\\b", "a\nb"])
def test_a_store_whose_name_slurm_reads_otherwise_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("shutil.which", lambda name: name)
    check_slurm(Store(tmp_path / "with blank"))
    with pytest.raises(ConfigError, match="rename it"):
        check_slurm(Store(tmp_path / name))
