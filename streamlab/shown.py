"""The one door from the library up to its notebook: opened by name, when somebody looks.

Layers import downwards, and `streamlab.notebook` stands above what it shows. So what is shown knows
only this: that there is a module up there which draws it. HTML needs nothing installed; widgets need
the extra ``streamlab[notebook]``.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from streamlab.errors import MissingExtra

__all__ = ["Shown", "notebook"]


def notebook(module: str) -> ModuleType:
    """Return ``streamlab.notebook.<module>``.

    Raises:
        MissingExtra: it draws with what is not installed; says the pip line.
    """
    try:
        return importlib.import_module(f"streamlab.notebook.{module}")
    except ModuleNotFoundError as missing:
        if (missing.name or "streamlab").split(".")[0] == "streamlab":
            raise
        raise MissingExtra(
            f"live views need {missing.name}, which is not installed",
            hint="pip install 'streamlab[notebook]'",
        ) from missing


class Shown:
    """What shows itself in a notebook, as `streamlab.notebook.html` draws it."""

    def _repr_html_(self) -> str:
        return str(notebook("html").html(self))
