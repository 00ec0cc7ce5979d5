"""Ctrl-C waits until a write is whole.

A KeyboardInterrupt may come between any two instructions: after a row was written and before it was
published, while a lock is taken and nothing yet says so. Inside `interrupts_deferred` it is noted, and
raised at the end; what waits in there looks at the note and gives up.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["interrupts_deferred"]


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[list[Any]]:
    """Note interrupts for the length of a block; the list that it gives is true when one came.

    Blocks nest. Only the main thread is ever interrupted; in others this does nothing.
    """
    noted: list[Any] = []
    handler = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or not callable(handler):
        yield noted
        return
    signal.signal(signal.SIGINT, lambda *event: noted.append(event))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, handler)
        if noted:
            handler(*noted[0])
