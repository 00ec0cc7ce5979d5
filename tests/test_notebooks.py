"""Every notebook keeps its outputs; that it runs from top to bottom, nbmake sees to."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_keeps_its_outputs(path):
    """What is saved has every cell run in order, at least one picture, no error and no path of a home."""
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    outputs = [o for c in cells for o in c["outputs"]]
    assert any("image/png" in str(o.get("data", {})) for o in outputs)
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert "/root/" not in path.read_text() and "/home/" not in path.read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_small_and_shows_stills(path):
    """No state of widgets is saved; each view has left a still that says when; lines fit a screen."""
    book = json.loads(path.read_text())
    assert "widgets" not in book["metadata"]
    assert path.stat().st_size < 500_000
    for cell in book["cells"]:
        code = cell["cell_type"] == "code"
        assert not code or all(len(line) <= 130 for line in "".join(cell["source"]).splitlines()), (
            cell["source"]
        )
        for output in cell.get("outputs", []):
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                still = "".join(cell["outputs"][0]["data"]["text/html"])
                assert "as of 20" in still and "sl-still" in still
