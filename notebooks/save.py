"""Run the notebooks from top to bottom, and save them with what they show: ``make notebooks``.

Live views are stopped at the end, in a cell that is not kept, so that each leaves its last picture.
State of widgets is not saved: a still says it all, and asks for no script.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

LAST = """
from streamlab.notebook.live import live_views

for view in live_views():
    view.stop()
"""


def save(path: Path) -> None:
    """Run one notebook in an empty folder, and write it back."""
    book = nbformat.read(path, as_version=4)
    book.cells.append(nbformat.v4.new_code_cell(LAST))
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        client = NotebookClient(
            book, timeout=240, kernel_name="python3", store_widget_state=False, resources=where
        )
        client.execute()
    book.cells.pop()
    for cell in book.cells:
        cell.metadata.pop("execution", None)
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(book, path)
    print(f"{path.name}: {path.stat().st_size / 1000:,.0f} KB")


if __name__ == "__main__":
    here = Path(__file__).parent
    for path in map(Path, sys.argv[1:] or sorted(here.glob("*.ipynb"))):
        save(path)
