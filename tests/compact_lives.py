"""What processes of the compaction tests do: they come from a server that has used no Polars yet.

Polars' threads do not survive a fork, so a child forked by the test itself could not compact.
"""

import contextlib
import multiprocessing
import os
import traceback

from faults import dying

import streamlab as sl
from streamlab.log import compact as product
from streamlab.log import disk

KEYS = 7

_SERVED = multiprocessing.get_context("forkserver")
_SERVED.set_forkserver_preload(
    ["compact_lives", "polars", "streamlab.lazy", "streamlab.log.compact"]
)


def process(target, *arguments):
    """Start a function of this module in a process."""
    child = _SERVED.Process(target=target, args=arguments, daemon=True)
    child.start()
    return child


def state(place):
    """The table as of a place: row n has key n % 7, and is a deletion if n % 11 is 3."""
    last = {n % KEYS: n for n in range(place)}
    return sorted((k, n) for k, n in last.items() if n % 11 != 3)


def compact(path, at, how, fault):
    """Compact, and die at the n-th change of the disk; perhaps with a fault put into the product."""
    if fault is not None:
        fault()
    dying(at, how)
    with sl.open(path) as lab:
        lab["s"].compact()
    os._exit(0)


def removed_first():
    """What is replaced is removed before the manifest says so."""
    real = product.update_manifest

    def update(folder, lock, change):
        for segment in product.read_manifest(folder / "manifest").segments[:-1]:
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(folder / segment.file)
        return real(folder, lock, change)

    product.update_manifest = update


def one_by_one():
    """Each new file is listed by itself, the younger rows first."""
    real = product.Compactor._list

    def listed(self, written):
        for new in reversed(written):
            real(self, [new])

    product.Compactor._list = listed
    product.Compactor._groups = lambda self, kept: [(segment,) for segment in self.segments]


def read(path, end, results):
    """Read tables until a stream has come to an end; each must be that of its place."""
    try:
        results.put(_read(path, end))
    except Exception:
        results.put(traceback.format_exc())


def _read(path, end):
    count = compacted = 0
    with sl.open(path) as lab:  # read-only there are no pins, and a read may have to be done again
        stream = lab["s"]
        while stream.end_offset < end:
            view = stream.view(compacted="ok").as_of(stream.end_offset)
            place, rows = view.end_offset, view.table().to_polars()
            assert sorted(rows.select("k", "x").iter_rows()) == state(place), place
            kept = stream.view(compacted="ok").to_arrow()["_offset"].to_pylist()
            assert kept == sorted(set(kept)), kept
            count += 1
            compacted = max(compacted, stream.stats().compacted_upto)
    return count, compacted


def results():
    """A queue that a process answers through."""
    return _SERVED.Queue()
