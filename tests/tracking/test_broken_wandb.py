"""A wandb whose import fails in a way that timm does not allow for costs the mirror, and is told before training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from studies import running
from studies.compose import Composed, compose_study
from studies.engine_spec import EngineSpec
from studies.grid import Plan
from studies.store import Store
from studies.tracking import TrackingSpec, decide
from studies.tracking import settings as settings_module

BROKEN = 'raise TypeError("Descriptors cannot be created directly.\\nUpgrade protobuf.")\n'
WHY = "wandb is installed but cannot be imported (TypeError: Descriptors cannot be created directly.)"


def ended(tmp_path: Path, wandb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of Python where wandb is these lines."""
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "__init__.py").write_text(wandb)
    search = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )


def test_timm_does_without_a_broken_wandb_and_the_mirror_says_why(tmp_path: Path) -> None:
    program = (
        "import studies, timm\n"
        "from studies.tracking import TrackingSpec, decide\n"
        "decision = decide(TrackingSpec(kind='wandb'))\n"
        "print(decision.mode, decision.reason)\n"
    )
    process = ended(tmp_path, BROKEN, "-c", program)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(f"off {WHY}; training is not affected: install another version")


def test_a_study_is_planned_with_a_broken_wandb(tmp_path: Path) -> None:
    options = ["families=[vit,resnet]", "num_train=[64]", "data=dial_position", "recipe.tuning=null"]
    process = ended(tmp_path, BROKEN, "-m", "studies", "plan", "data_scaling", *options)
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("lines", ["import no_such_module_of_wandb\n", "raise ImportError('too old')\n"])
def test_what_an_import_lacks_is_told_as_it_is(lines: str, tmp_path: Path) -> None:
    process = ended(tmp_path, lines, "-c", "import studies, wandb")
    assert process.returncode == 1
    assert process.stderr.strip().splitlines()[-1] in (
        "ModuleNotFoundError: No module named 'no_such_module_of_wandb'",
        "ImportError: too old",
    )


def test_a_wandb_that_works_is_left_alone(tmp_path: Path) -> None:
    program = (
        "import studies, wandb, inspect, importlib.resources, importlib.util\n"
        "assert inspect.getsource(wandb) == 'NAME = 1\\n'\n"
        "assert importlib.resources.files('wandb').joinpath('__init__.py').read_text() == 'NAME = 1\\n'\n"
        "assert importlib.util.find_spec('wandb').submodule_search_locations\n"
        "from studies.broken_wandb import why_broken\n"
        "print(wandb.NAME, repr(why_broken()))"
    )
    process = ended(tmp_path, "NAME = 1\n", "-c", program)
    assert (process.stdout, process.stderr) == ("1 ''\n", "")


class _MachineError(Exception):
    """Raised where the machine is looked at, which comes first."""


@pytest.mark.parametrize(("kind", "told"), [("wandb", [f"not mirrored: {WHY}"]), ("off", [])])
def test_it_is_told_before_anything_is_trained(
    kind: str, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked_at(planned: Plan, engine: EngineSpec, store: Store) -> list[str]:
        raise _MachineError

    monkeypatch.setattr(running, "check_machine", looked_at)
    monkeypatch.setattr(running, "why_broken", lambda: WHY)
    composed: Composed = compose_study("data_scaling", [f"tracking={kind}", "data=dial_position"])
    messages: list[str] = []
    with pytest.raises(_MachineError):
        running.train_cells(
            None,  # type: ignore[arg-type]  # nothing is asked of it before the machine
            composed,
            Store(tmp_path),
            set(),
            lambda stage: None,
            lambda ids: None,
            messages.append,
        )
    assert messages == told


def test_no_server_is_looked_for_where_wandb_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "why_broken", lambda: WHY)
    monkeypatch.setattr(settings_module, "find_server", lambda: pytest.fail("it is looked for"))
    assert decide(TrackingSpec(kind="wandb", mode="online")).reason == WHY
