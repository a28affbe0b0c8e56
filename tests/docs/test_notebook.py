"""The notebook of the own-data path runs from top to bottom."""

import os
import sys
from pathlib import Path

import pytest

from tests.support.recipes import REPO

pytest.importorskip("ipykernel")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    notebook = nbformat.read(REPO / "docs" / "own_data.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=800, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert (tmp_path / "model.onnx").is_file()
    assert (tmp_path / "outputs" / "first" / "run.json").is_file()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert "Error" not in "".join(output.get("text", "") for output in outputs)
