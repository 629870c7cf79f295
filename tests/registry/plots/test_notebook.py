"""Pictures in a real notebook."""

import base64
import io

import pytest

nbclient = pytest.importorskip("nbclient", reason="pip install 'experiment_tracking[test]'")
nbformat = pytest.importorskip("nbformat", reason="pip install 'experiment_tracking[test]'")
pytest.importorskip("ipykernel", reason="pip install 'experiment_tracking[test]'")
Image = pytest.importorskip("PIL.Image", reason="pip install 'experiment_tracking[plots]'")

CELLS = (
    "from experiment_tracking import ExperimentRegistry\n"
    "runs = ExperimentRegistry({root!r}).list_experiments()",
    "runs.plot.curves('loss')",
    "import matplotlib.pyplot as plt",
    "figure = runs.plot.curves('loss')",
    "figure",
    "runs.plot.curves.__doc__.splitlines()[0]",
)


def test_a_figure_is_shown_once_with_and_without_pyplot(seeds, root, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    cells = [nbformat.v4.new_code_cell(source.format(root=str(root))) for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()

    def pictures(cell):
        data = [output.get("data", {}) for output in cell.outputs]
        return [each["image/png"] for each in data if "image/png" in each]

    assert [len(pictures(cell)) for cell in notebook.cells] == [0, 1, 0, 0, 1, 0]
    (encoded,) = pictures(notebook.cells[1])
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert len(image.convert("RGB").getcolors(2**24)) > 50  # something is drawn in it
    (said,) = notebook.cells[5].outputs
    assert "Plot metrics over steps" in said["data"]["text/plain"]
