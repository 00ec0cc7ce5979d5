"""Forking: a stream that shares the history of another one up to a place, and goes its own way.

What is shared lies on disk once, under two names: removing either side leaves the other whole.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from streamlab import views
from streamlab.log.fork import Cut, branch

if TYPE_CHECKING:
    from pathlib import Path

    from streamlab.duration import Instant
    from streamlab.lab import Lab
    from streamlab.scan import Scan, Snapshot
    from streamlab.stream import Stream

__all__ = ["cut_of", "fork"]


def fork(
    lab: Lab, scan: Scan, name: str, at: int | Instant | None, timeout: float | None
) -> Stream:
    """Make a stream that begins with the rows of a scan, up to a place; see `Stream.fork`."""
    lab._writable()  # noqa: SLF001
    bounded = scan if at is None else views.as_of(scan, at, timeout)[0]
    snapshot = views.unbroken(bounded, "a fork").fix()
    info = replace(
        snapshot.info,
        id=uuid.uuid4().hex,
        name=name,
        job=None,
        created=lab._clock.now() / 1e6,  # noqa: SLF001
    )

    def fill(folder: Path) -> None:
        branch(cut_of(snapshot), folder, info.id, info.schemas[-1], info.schema_id)

    lab._catalog.add(info, fill)  # noqa: SLF001
    return lab[name]


def cut_of(snapshot: Snapshot) -> Cut:
    """Return the rows of a snapshot, which keeps them pinned, as files.

    Raises:
        OffsetOutOfRange: it ends in the compacted part of its stream.
    """
    snapshot.check_exact()
    log, moment = snapshot.log, snapshot.moment
    return Cut(log, moment, snapshot.start, snapshot.stop, snapshot.info.time)
