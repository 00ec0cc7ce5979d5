"""The progress bar of every long call: in a terminal or notebook, unless told otherwise."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Protocol

__all__ = ["progress_bar"]


class Bar(Protocol):
    """What a long call tells its progress to."""

    def update(self, n: float = 1) -> Any: ...


def progress_bar(
    total: float | None,
    what: str,
    unit: str,
    show: bool | None,
) -> contextlib.AbstractContextManager[Bar]:
    """Return a bar to `update`; ``show=None`` shows it only where somebody looks.

    It appears after half a second, so that what is quick stays quiet.
    """
    if show is None:
        show = _somebody_looks()
    if not show:
        return _silent()
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm.auto warns where ipywidgets is missing
        from tqdm.auto import tqdm

    bar: contextlib.AbstractContextManager[Bar] = tqdm(
        total=total, desc=what, unit=f" {unit}", unit_scale=True, delay=0.5, leave=False
    )
    return bar


def _somebody_looks() -> bool:
    if "ipykernel" in sys.modules:
        return True
    return sys.stderr is not None and sys.stderr.isatty()


class _Quiet:
    def update(self, n: float = 1) -> None:
        del n


@contextlib.contextmanager
def _silent() -> Iterator[Bar]:
    yield _Quiet()
