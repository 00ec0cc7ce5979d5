"""One piece of work done behind another: in a thread of its own, while the next is prepared.

Invariants: pieces are done one at a time and in order; the error of one is raised where the next is
begun, or where all is waited for, and nothing is begun after it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Behind"]


class Behind:
    """Work in order, one piece of it at a time behind the caller's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Begin a piece of work when the one before is done.

        Raises:
            BaseException: what the one before raised.
        """
        self.finish()
        self._thread = threading.Thread(target=self._do, args=(work,), name=self.name, daemon=True)
        self._thread.start()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised in `finish`
            self._error = error

    def finish(self) -> None:
        """Return when all that was begun is done.

        Raises:
            BaseException: what it raised, now and ever after.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error
