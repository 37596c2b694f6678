"""The layers of the house, read off the imports and then seen at run time."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "datamodules", "studies", "configs")
HEAVY = (
    "torch",
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "timm",
    "wandb",
    "hydra",
    "omegaconf",
    "datasets",
)
LIGHT_MODULES = ("planning", "cell", "grid", "fairness", "plan_notes", "digest", "spec", "recipe", "pretraining",
                 "engine_spec", "slurm_spec", "stopping",
                 "protocol", "strict", "arms", "asking", "answering", "readiness", "starts", "stages",
                 "budget", "few_shot_spec", "few_shot_networks", "few_shot_results", "records", "store", "files",
                 "errors", "analysis", "report", "terminal", "export",
                 "bundle", "housekeeping", "progress", "precision", "tuning", "tuned", "tuning_file", "published",
                 "kept_results", "kept_predictions",
                 "probes/catalogue", "probes/subjects", "probes/probe", "probes/probe_results",
                 "probes/summary", "probes/probe_tables", "probes/command",
                 "listing", "jobs", "console", "counts", "interruption", "help_text", "training_commands",
                 "fit_command", "printed_answers",
                 "bench/command", "bench/calibration_tables", "bench/tables", "bench/timings", "bench/workload",
                 "bench/children", "bench/train_race", "bench/roofline", "bench/gpu", "bench/made_store",
                 "bench/store_times", "doctor", "retry", "record_file", "troubled_lines", "soak", "stall")  # fmt: skip
LOADS_WHEN_CALLED = {"estimate": {"torch"}, "compose": {"hydra", "omegaconf"}}
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def only_for_types(tree: ast.Module) -> set[ast.AST]:
    """Nodes below `if TYPE_CHECKING:`, which never run."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    return {node for block in blocks for statement in block.body for node in ast.walk(statement)}


@cache
def imports(path: Path) -> tuple[tuple[str, str | None], ...]:
    """(absolute module, name imported from it or None) of every import that can run, at any level and by any form."""
    tree, package = tree_of(path), name_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found: list[tuple[str, str | None]] = []
    skipped = only_for_types(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found += [(str(arg.value), None) for arg in node.args[:1] if isinstance(arg, ast.Constant)]
    return tuple(found)


def roots(path: Path) -> set[str]:
    return {module.split(".")[0] for module, _ in imports(path)}


def called(path: Path) -> Iterator[str]:
    return (ast.unparse(node.func) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))


def importers(*names: str) -> set[str]:
    return {name_of(path) for path in MODULES if roots(path) & set(names)}


# --- what is written -------------------------------------------------------------------------------------------


def test_the_reader_of_imports_sees_every_kind() -> None:
    """Otherwise the tests below could not fail."""
    assert "studies.train" in importers("torch")  # at the top
    assert "studies.estimate" in importers("torch")  # inside a function
    assert "studies.planning" in importers("datamodules")
    assert ("studies.budget", "BranchPlan") in imports(ROOT / "studies" / "course.py")  # relative
    assert len(MODULES) > 50


@pytest.mark.parametrize("package", ["models", "datamodules"])
def test_models_and_data_know_neither_each_other_nor_studies(package: str) -> None:
    others = set(PACKAGES) - {package}
    assert {name_of(p) for p in MODULES if p.is_relative_to(ROOT / package) and roots(p) & others} == set()


def test_configs_hold_no_code() -> None:
    (only,) = (path for path in MODULES if path.is_relative_to(ROOT / "configs"))
    assert [type(node) for node in tree_of(only).body] == [ast.Expr]  # its docstring


@pytest.mark.parametrize("name", LIGHT_MODULES)
def test_questions_and_answers_need_no_training_library(name: str) -> None:
    folder = ROOT / "studies" / name
    paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    for path in paths:
        assert roots(path) & set(HEAVY) == set(), path


@pytest.mark.parametrize("name", sorted(LOADS_WHEN_CALLED))
def test_what_needs_one_heavy_library_loads_it_when_called(name: str) -> None:
    path = ROOT / "studies" / f"{name}.py"
    at_the_top = {alias for node in tree_of(path).body if isinstance(node, ast.Import | ast.ImportFrom)
                  for alias in ast.unparse(node).split()}  # fmt: skip
    assert roots(path) & set(HEAVY) == LOADS_WHEN_CALLED[name]
    assert at_the_top & LOADS_WHEN_CALLED[name] == set()


def test_one_module_builds_the_trainer_of_studies() -> None:
    building = {name_of(p) for p in MODULES if any(f.split(".")[-1] == "Trainer" for f in called(p))}
    assert building == {"studies.train", "studies.bench.plain_loop"}  # the latter as the peer it is measured against


def test_one_module_talks_to_wandb() -> None:
    assert importers("wandb") == {"studies.tracking.client"}


def test_one_module_knows_hydra() -> None:
    assert importers("hydra", "omegaconf") == {"studies.compose"}


def test_data_sets_are_read_by_data_modules_alone() -> None:
    assert {name.split(".")[0] for name in importers("datasets", "huggingface_hub")} == {"datamodules"}


def test_nothing_reaches_for_private_names_of_another_package() -> None:
    for path in MODULES:
        own = name_of(path).split(".")[0]
        for module, name in imports(path):
            owner, *rest = module.split(".")
            if owner in PACKAGES and owner != own:
                private = [part for part in (*rest, name or "") if part.startswith("_")]
                assert not private, f"{name_of(path)} imports {private} of {module}"


@pytest.mark.parametrize("package", ["models", "datamodules", "studies"])
def test_a_package_says_what_is_public(package: str) -> None:
    exported = next(
        ast.literal_eval(node.value)
        for node in tree_of(ROOT / package / "__init__.py").body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert len(exported) == len(set(exported)) > 5
    assert not any(name.startswith("_") for name in exported)


def test_no_file_is_named_for_nothing() -> None:
    nothing = {"utils", "helpers", "common", "misc"}
    assert {name_of(path) for path in (*MODULES, *(ROOT / "tests").rglob("*.py")) if path.stem in nothing} == set()


# --- what happens ----------------------------------------------------------------------------------------------

LOOKING = """
import json, sys
from pathlib import Path
from planned import finish, planned
from studies.cli import app
from studies.store import Store

plan = planned()
finish(Store("results"), plan)
before = sorted({name.split(".")[0] for name in sys.modules})
for verb in (["list"], ["status", "small"], ["show", plan.cells[0].id], ["export", "small"], ["report", "small"],
             ["fit", "small"], ["fit", f"{plan.study_id}.csv", "--figure", "curves.png"],
             ["bench", "calibration", "--studies", "1", "--replicates", "3", "--processes", "1"]):
    app(verb, standalone_mode=False)
assert Path("results/studies", plan.study_id, "report/index.html").exists()
Path("modules.json").write_text(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""

TRAINING = """
import json, sys
from pathlib import Path

import studies.engines.preload  # as the forkserver does
from training import train, tiny_plan
import studies.engines.worker

plan = tiny_plan()
record = train(plan.cells[0], plan, Path("results"))
assert record.status == "finished"
Path("modules.json").write_text(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""

PUBLIC = """
import json, sys
from pathlib import Path
import models, datamodules, studies
Path("modules.json").write_text(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def loaded(code: str, folder: Path) -> set[str]:
    """Top-level modules that a fresh process has loaded after running `code`."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT / "tests" / "studies"),
        "OMP_NUM_THREADS": "1",
        "INDUCTIVE_BIAS_CACHE": str(folder / "cache"),
        "MPLCONFIGDIR": str(folder / "mpl"),
    }
    outcome = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    return set(json.loads((folder / "modules.json").read_text()))


def test_importing_the_packages_loads_nothing_heavy(tmp_path: Path) -> None:
    found = loaded(PUBLIC, tmp_path)
    assert {"models", "datamodules", "studies"} <= found
    assert found & {*HEAVY, "numpy", "pandas", "scipy", "matplotlib"} == set()


def test_looking_at_a_study_loads_no_training_library(tmp_path: Path) -> None:
    found = loaded(LOOKING, tmp_path)
    assert "matplotlib" in found  # the report was really drawn
    assert found & set(HEAVY) == set()


def test_a_training_worker_loads_neither_data_sets_nor_hydra_nor_wandb(tmp_path: Path) -> None:
    found = loaded(TRAINING, tmp_path)
    assert {"torch", "pytorch_lightning"} <= found
    assert found & {"datasets", "hydra", "omegaconf", "wandb"} == set()
