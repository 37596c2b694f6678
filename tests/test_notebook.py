"""The notebooks run on the records of a study and end in figures; none of their output is committed."""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path

import nbformat
import pytest
from report.probed import write_probes
from report.synthetic import plan_of, write_study

from studies.store import Store

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOK, CAUSE = FOLDER / "curves.ipynb", FOLDER / "curve_to_cause.ipynb"


@pytest.mark.parametrize("path", [NOTEBOOK, CAUSE], ids=lambda path: path.stem)
def test_no_output_is_committed(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)


# Jupyter's client warns of its own event loop and of file descriptors it leaves to the interpreter.
@pytest.mark.filterwarnings("default")
def test_it_runs_and_ends_in_the_curve_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path / "store", plan_of(replicates=3, rival="resnet-circular"))
    outputs = outputs_of(NOTEBOOK, tmp_path, monkeypatch)
    assert outputs[0][0]["text"] == "12 trained cells, 48 rows\n"
    assert outputs[3][0]["text"].splitlines()[0] in ("crosses", "not resolved", "none below x_max")
    assert "ViT" not in outputs[3][0]["text"]  # arms go by their own names here
    assert "images vit needs" in outputs[5][0]["text"] or "vit needs" in outputs[5][0]["text"]
    assert all("floor" in line or "no curve is fitted" in line for line in outputs[7][0]["text"].splitlines())
    picture = base64.b64decode(outputs[-1][-1]["data"]["image/png"])
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


@pytest.mark.filterwarnings("default")
def test_from_curve_to_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rungs = ("none", "within_patch", "patches", "pixels")
    plan = plan_of("permutation_ladder", replicates=3, ladder=rungs)
    write_study(tmp_path / "store", plan)
    write_probes(plan, Store(tmp_path / "store"))
    outputs = outputs_of(CAUSE, tmp_path, monkeypatch)
    assert outputs[0][0]["text"] == "48 trained cells, permutations: none, within_patch, patches, pixels\n"
    said = [line for of in outputs for output in of for line in output.get("text", "").splitlines()]
    changes = [line for line in said if "times its errors on images as they are" in line]
    assert [line.split(" makes ")[0] for line in changes] == ["ResNet", "ViT"]
    assert changes[1].count("not significant") == 4, "a ViT loses at the last rung alone, at both sizes"
    assert sum("which of ResNet and ViT loses more is not told: at chance" in line for line in said) == 3
    figures = [output["data"]["image/png"] for of in outputs for output in of if "image/png" in output.get("data", {})]
    assert len(figures) == 5, "curves, ladder, equivariance, shifts, attention"
    assert all(len(base64.b64decode(figure)) > 10_000 for figure in figures)


def outputs_of(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[nbformat.NotebookNode]]:
    """What the code cells of a notebook print and show on the store in a folder."""
    from nbclient import NotebookClient

    monkeypatch.setenv("INDUCTIVE_BIAS_STORE", str(folder / "store"))
    monkeypatch.setenv("JUPYTER_PATH", str(kernel_folder(folder)))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=120, kernel_name="this-python", resources={"metadata": {"path": path.parent}}
    )
    client.execute(env=dict(os.environ))
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def kernel_folder(folder: Path) -> Path:
    """A kernel that is this very interpreter, wherever kernels are installed on the machine."""
    spec = folder / "jupyter" / "kernels" / "this-python"
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "this Python", "language": "python"})
    )
    return folder / "jupyter"
