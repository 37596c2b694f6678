"""The notebook runs on the records of a study and ends in the curve figure; none of its output is committed."""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path

import nbformat
import pytest
from report.synthetic import plan_of, write_study

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "curves.ipynb"


def test_no_output_is_committed() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)


# Jupyter's client warns of its own event loop and of file descriptors it leaves to the interpreter.
@pytest.mark.filterwarnings("default")
def test_it_runs_and_ends_in_the_curve_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    write_study(tmp_path / "store", plan_of(replicates=3, rival="resnet-circular"))
    monkeypatch.setenv("INDUCTIVE_BIAS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("JUPYTER_PATH", str(kernel_folder(tmp_path)))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=120, kernel_name="this-python", resources={"metadata": {"path": NOTEBOOK.parent}}
    )
    client.execute(env=dict(os.environ))
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert outputs[0][0]["text"] == "12 trained cells, 48 rows\n"
    assert outputs[3][0]["text"].splitlines()[0] in ("crosses", "not resolved", "none below x_max")
    assert "ViT" not in outputs[3][0]["text"]  # arms go by their own names here
    assert "images vit needs" in outputs[5][0]["text"] or "vit needs" in outputs[5][0]["text"]
    assert all("floor" in line or "no curve is fitted" in line for line in outputs[7][0]["text"].splitlines())
    picture = base64.b64decode(outputs[-1][-1]["data"]["image/png"])
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


def kernel_folder(folder: Path) -> Path:
    """A kernel that is this very interpreter, wherever kernels are installed on the machine."""
    spec = folder / "jupyter" / "kernels" / "this-python"
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "this Python", "language": "python"})
    )
    return folder / "jupyter"
