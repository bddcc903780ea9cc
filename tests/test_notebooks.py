"""Every notebook runs from its first cell to its last, in a kernel of its own."""
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_notebook_runs_and_its_model_learns(path):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # outputs are not committed
    notebook.cells.append(nbformat.v4.new_code_cell("assert history['val_loss'][-1] < history['val_loss'][0] < 6.93  # ln(1024)"))

    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()

    assert len(notebook.cells) == 11  # ten, and the assertion above
