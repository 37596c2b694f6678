"""`study doctor`: never a traceback, an exit code that says what was found, and no secret on the screen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from studies import precision
from studies.doctor import engines, examination, machine, mirror
from studies.doctor.cache import data_cache
from studies.doctor.examination import checks, examine
from studies.doctor.finding import Finding, broken, carried_out, fine, printable, some, warning
from studies.tracking import settings
from studies.tracking.settings import Client

DOCTOR = [sys.executable, "-m", "studies", "doctor", "--json"]


def only(told: object) -> Finding:
    (one,) = told  # type: ignore[attr-defined]
    assert isinstance(one, Finding)
    return one


def test_it_works_where_numpy_and_torch_cannot_be_imported_and_there_is_no_store(tmp_path: Path) -> None:
    for name in ("numpy", "torch", "pandas", "matplotlib"):  # typer itself needs pydantic
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('{name} is broken\\nsecond line')")
    program = (
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        f"import os\nos.environ['PYTHONPATH'] = {str(tmp_path)!r} + os.pathsep + os.environ.get('PYTHONPATH', '')\n"
        "from studies.__main__ import main\nmain()"
    )
    command = [sys.executable, "-c", program, "doctor", "--json", "--store", str(tmp_path / "none")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 3, ended.stderr
    assert "Traceback" not in ended.stderr
    told = json.loads(ended.stdout)
    faults = {one["finding"] for one in told["findings"] if one["level"] == "broken"}
    assert "torch cannot be imported (ImportError: torch is broken)" in faults
    assert any(one["check"] == "store: folder" and "not there yet" in one["finding"] for one in told["findings"])
    assert told["counts"]["broken"] == sum(one["level"] == "broken" for one in told["findings"])
    assert not (tmp_path / "none").exists()


def test_exit_codes_and_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from studies.doctor import command

    def ended(*found: Finding) -> int:
        monkeypatch.setattr(command, "examine", lambda store, engine: iter(found))
        with pytest.raises(SystemExit) as caught:
            command.doctor(store=Path("r"), engine="local", as_json=False)
        return int(caught.value.code or 0)

    assert ended(fine("a", "good"), warning("b", "slow", "wait")) == 0
    assert ended(fine("a", "good"), broken("b", "[red]bad", "mend")) == 3
    assert "[red]bad" in capsys.readouterr().out


def test_a_check_that_raises_is_a_finding() -> None:
    def raising() -> object:
        yield fine("a", "first")
        raise RecursionError("deep\x1b[31m\nsecond")

    first, second = carried_out("store", raising)  # type: ignore[arg-type]
    assert first.found == "first"
    assert (second.check, second.level) == ("store", "broken")
    assert second.found == "this could not be checked (RecursionError: deep\\x1b[31m)"


def test_all_checks_are_told_in_order_and_none_stops_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> object:
        raise OSError("gone")

    asked = dict.fromkeys(checks(tmp_path, "local"), failing)
    monkeypatch.setattr(examination, "checks", lambda root, engine: asked)
    assert [one.check for one in examine(tmp_path)] == list(asked)


def test_names_are_printable_and_few() -> None:
    assert printable("a\x1b[2J\nb") == "a\\x1b[2J\\nb"
    assert some(["a", "b", "c"], 2) == "a, b and 1 more"


# --- machine ---------------------------------------------------------------------------------------------------


def test_a_container_that_grants_less_time_than_cores_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (0.5, 0, 0))
    quota = tmp_path / "cpu.max"
    quota.write_text("150000 100000\n")
    told = only(machine.cores(quota))
    assert (told.level, told.advice) == ("warning", "set engine.workers=1")
    quota.write_text("max 100000\n")
    assert only(machine.cores(quota)).level == "fine"
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (9.0, 0, 0))
    assert only(machine.cores(quota)).level == "warning"


def test_memory_is_counted_per_worker_and_by_the_limit_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1})
    told, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    told.write_text("MemTotal:       8000000 kB\nMemAvailable:    4000000 kB\n")
    assert only(machine.memory(told, limit)).level == "fine"
    limit.write_text("800000000\n")
    found = only(machine.memory(told, limit))
    assert (found.level, found.advice.split(",")[0]) == ("warning", "set engine.workers=1")


def test_instruction_sets_are_read_off_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    told = tmp_path / "cpuinfo"
    told.write_text("processor : 0\nflags : fpu sse avx2 amx_bf16\n")
    assert only(machine.instruction_sets(told)).found == "x86_64: avx2, amx_bf16"
    told.write_text("flags : fpu sse\n")
    assert only(machine.instruction_sets(told)).level == "warning"


@pytest.mark.parametrize(
    ("trial", "level", "says"),
    [
        ("pass", "fine", "works"),
        ("import os; os.kill(os.getpid(), 4)", "warning", "kills its process (it ended with signal 4)"),
        ("import nowhere_at_all", "warning", "could not be tried (ModuleNotFoundError"),
    ],
)
def test_bf16_is_tried_in_a_child(monkeypatch: pytest.MonkeyPatch, trial: str, level: str, says: str) -> None:
    monkeypatch.setattr(precision, "_TRIAL", trial)
    told = only(machine.bf16())
    assert (told.level, says in told.found) == (level, True), told


def test_huge_pages_need_kernel_and_library(tmp_path: Path) -> None:
    enabled = tmp_path / "enabled"
    enabled.write_text("always [madvise] never\n")
    assert only(machine.huge_pages(enabled, ("glibc", "2.36"))).level == "fine"
    assert only(machine.huge_pages(enabled, ("glibc", "2.34"))).level == "warning"
    assert only(machine.huge_pages(enabled, ("", ""))).level == "warning"
    enabled.write_text("always madvise [never]\n")
    assert only(machine.huge_pages(enabled, ("glibc", "2.36"))).level == "warning"


# --- cache, mirror, engines ------------------------------------------------------------------------------------


def test_the_cache_folder_is_told_with_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    (folder / "dial-0a" / "train").mkdir(parents=True)
    (folder / "dial-0a" / "train" / "split.json").write_bytes(bytes(1000))
    (folder / "dial-0a" / ".test.x1").mkdir()
    monkeypatch.setenv("INDUCTIVE_BIAS_CACHE", str(folder))
    told = {one.check: one for one in data_cache()}
    assert "named by INDUCTIVE_BIAS_CACHE): 1 split" in told["data cache: folder"].found
    assert told["data cache: leftovers of killed processes"].found.startswith("1 folder")
    monkeypatch.setenv("INDUCTIVE_BIAS_CACHE", "relative")
    assert {one.check: one.level for one in data_cache()}["data cache: folder"] == "warning"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INDUCTIVE_BIAS_CACHE", str(tmp_path / "file"))
    assert only(data_cache()).level == "broken"


SECRET = "0123456789" * 4


@pytest.mark.parametrize(
    ("mode", "has_key", "problem", "level", "says"),
    [
        ("", False, "unasked", "fine", "offline by default"),
        ("offline", True, "unasked", "fine", "a key is present"),
        ("online", True, "", "fine", "reachable"),
        ("online", True, "refused", "warning", "cannot be reached"),
        ("online", False, "", "warning", "no key: runs will be written offline"),
        ("onlne", True, "unasked", "warning", "'onlne', which wandb does not know"),
    ],
)
def test_wandb_settings_are_told_without_the_key(
    monkeypatch: pytest.MonkeyPatch, mode: str, has_key: bool, problem: str, level: str, says: str
) -> None:
    def connection(address: str) -> str:
        assert problem != "unasked", "a network was used although the mode is not online"
        return problem

    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    client = Client(f"https://user:{SECRET}@wandb.example:8080", has_key)
    monkeypatch.setattr(settings, "ask_client", lambda: client)
    monkeypatch.setattr(settings, "connection_problem", connection)
    monkeypatch.setattr(settings, "is_installed", lambda: True)
    found = list(mirror.mirror())
    assert found[0].level == level
    assert says in found[0].found
    told = json.dumps([one.to_json() for one in found])
    assert SECRET not in told
    assert "wandb.example" in told


def test_a_broken_wandb_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(settings, "is_installed", lambda: True)
    ended = SimpleNamespace(stdout="", stderr="Traceback\nImportError: protobuf")
    monkeypatch.setattr(settings.subprocess, "run", lambda *_, **__: ended)
    told = only(mirror.mirror())
    assert (told.level, "ImportError: protobuf" in told.found) == ("warning", True)


def test_an_engine_that_is_not_there_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(engines.engine("local", tmp_path)) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    told = {one.check: one for one in engines.engine("slurm", tmp_path)}
    assert (told["engine: controller"].level, "sbatch" in told["engine: controller"].found) == ("broken", True)
    for name in (*engines.SLURM_COMMANDS, "sinfo"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    told = {one.check: one for one in engines.engine("slurm", tmp_path)}
    assert "Unable to contact slurm controller" in told["engine: controller"].found
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho 'all up 2 idle'\n")
    told = {one.check: one for one in engines.engine("slurm", tmp_path)}
    assert told["engine: controller"].level == "fine"
