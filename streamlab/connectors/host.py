"""This machine as a source: CPU, memory, disk, network and processes as live streams.

Every machine that runs a notebook has one real event source: itself. `host` samples it with psutil
and yields Arrow batches for five streams. Counters (bytes, operations) are given as the *increase
since the sample before*, so that summing them over any window is right; gauges (busy, used bytes)
are the value at the sample.

Invariants: event times within a stream never go back; a batch holds one sample; nothing is read
that needs more rights than the user has, and nothing leaves the machine.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

__all__ = ["HostSource", "Sample", "host"]

_TS = pa.field("ts", pa.timestamp("us", "UTC"))

SCHEMAS: dict[str, pa.Schema] = {
    "cpu": pa.schema(
        [
            _TS,
            pa.field("core", pa.int32()),
            pa.field("busy", pa.float64()),  # percent of the interval, 0 to 100
            pa.field("user", pa.float64()),
            pa.field("system", pa.float64()),
            pa.field("iowait", pa.float64()),
        ]
    ),
    "memory": pa.schema(
        [
            _TS,
            pa.field("used_bytes", pa.int64()),
            pa.field("available_bytes", pa.int64()),
            pa.field("cached_bytes", pa.int64()),
            pa.field("total_bytes", pa.int64()),
            pa.field("swap_bytes", pa.int64()),
        ]
    ),
    "disk": pa.schema(
        [
            _TS,
            pa.field("device", pa.string()),
            pa.field("read_bytes", pa.int64()),
            pa.field("write_bytes", pa.int64()),
            pa.field("reads", pa.int64()),
            pa.field("writes", pa.int64()),
        ]
    ),
    "network": pa.schema(
        [
            _TS,
            pa.field("interface", pa.string()),
            pa.field("received_bytes", pa.int64()),
            pa.field("sent_bytes", pa.int64()),
            pa.field("received_packets", pa.int64()),
            pa.field("sent_packets", pa.int64()),
        ]
    ),
    "processes": pa.schema(
        [
            _TS,
            pa.field("pid", pa.int32()),
            pa.field("name", pa.string()),
            pa.field("cpu", pa.float64()),  # percent of one core since the sample before
            pa.field("memory_bytes", pa.int64()),
            pa.field("threads", pa.int32()),
        ]
    ),
}

KEYS: dict[str, str | None] = {
    "cpu": "core",
    "memory": None,
    "disk": "device",
    "network": "interface",
    "processes": "pid",
}


class Sample(NamedTuple):
    """One sample of one stream."""

    stream: str
    batch: pa.RecordBatch
    position: int  # number of the sample, from 0


def host(
    *,
    rate: float = 1.0,
    streams: tuple[str, ...] = tuple(SCHEMAS),
    processes: int = 8,
    process_every: float = 1.0,
) -> HostSource:
    """Return a source that samples this machine ``rate`` times a second.

    ``streams`` picks among cpu, memory, disk, network and processes. ``processes`` is how many
    are reported, the busiest first, every ``process_every`` seconds (walking the process table is
    the one expensive part).

    >>> source = host(rate=20, streams=("cpu", "memory"))
    >>> sorted(source.schemas)
    ['cpu', 'memory']

    Raises:
        ValueError: an unknown stream, or a rate that is not above 0 and at most 100.
    """
    return HostSource(rate, tuple(streams), processes, process_every)


class HostSource:
    """The live metrics of this machine; iterate `samples`."""

    def __init__(
        self, rate: float, streams: tuple[str, ...], processes: int, process_every: float
    ) -> None:
        unknown = [name for name in streams if name not in SCHEMAS]
        if unknown:
            msg = f"host has no stream {unknown[0]!r}; it has {', '.join(SCHEMAS)}"
            raise ValueError(msg)
        if not 0 < rate <= 100:
            msg = f"rate is in samples a second, above 0 and at most 100; got {rate!r}"
            raise ValueError(msg)
        self.rate = rate
        self.streams = streams
        self.processes = processes
        self.process_every = process_every

    def __repr__(self) -> str:
        return f"sl.host(rate={self.rate:g}, streams={self.streams!r})"

    @property
    def schemas(self) -> dict[str, pa.Schema]:
        """The Arrow schema of each stream."""
        return {name: SCHEMAS[name] for name in self.streams}

    @property
    def keys(self) -> dict[str, str | None]:
        """The key column of each stream, None where rows have no key."""
        return {name: KEYS[name] for name in self.streams}

    def samples(self, seconds: float | None = None) -> Iterator[Sample]:
        """Yield samples at the source's rate, for ``seconds`` or for ever.

        The first sample comes one interval after the call, because rates need two readings. A
        sample that is late is not made up for: the next one covers the longer interval.
        """
        probe = _Probe(self.processes)
        interval = 1.0 / self.rate
        started = time.monotonic()
        due = started + interval
        position = 0
        process_due = started + min(self.process_every, interval * 2)
        while seconds is None or due <= started + seconds + interval / 2:
            time.sleep(max(0.0, due - time.monotonic()))
            now = dt.datetime.now(dt.UTC)
            for name in self.streams:
                if name == "processes":
                    if time.monotonic() < process_due:
                        continue
                    process_due = time.monotonic() + self.process_every
                rows = probe.read(name, now)
                if rows:
                    yield Sample(name, _batch(rows, SCHEMAS[name]), position)
            position += 1
            due = max(due + interval, time.monotonic())


def _batch(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _percent(part: float, whole: float) -> float:
    return min(100.0, max(0.0, 100.0 * part / whole))


class _Probe:
    """Reads psutil and turns its running counters into increases."""

    def __init__(self, processes: int) -> None:
        import psutil

        self.psutil = psutil
        self.top = processes
        self.last: dict[tuple[str, str], tuple[int, ...]] = {}
        self.known: dict[int, Any] = {}
        self.cpu_times: dict[int, Any] = {}
        self.readers: dict[str, Callable[[dt.datetime], list[tuple[Any, ...]]]] = {
            "cpu": self._cpu,
            "memory": self._memory,
            "disk": self._disk,
            "network": self._network,
            "processes": self._processes,
        }
        now = dt.datetime.now(dt.UTC)
        for reader in self.readers.values():
            reader(now)  # the first reading of a counter has nothing to compare with

    def read(self, stream: str, now: dt.datetime) -> list[tuple[Any, ...]]:
        return self.readers[stream](now)

    def _increase(self, stream: str, key: str, counters: tuple[int, ...]) -> tuple[int, ...] | None:
        before = self.last.get((stream, key))
        self.last[stream, key] = counters
        if before is None:
            return None
        return tuple(max(0, b - a) for a, b in zip(before, counters, strict=True))

    def _cpu(self, now: dt.datetime) -> list[tuple[Any, ...]]:
        # psutil's own percentages are only right for intervals of a second and more.
        rows = []
        for core, t in enumerate(self.psutil.cpu_times(percpu=True)):
            before, self.cpu_times[core] = self.cpu_times.get(core), t
            if before is None:
                continue
            spent = {name: getattr(t, name) - getattr(before, name) for name in t._fields}
            for counted_twice in ("guest", "guest_nice"):
                spent.pop(counted_twice, None)
            total = max(sum(spent.values()), 1e-9)
            idle, iowait = spent["idle"], spent.get("iowait", 0.0)
            shares = (total - idle - iowait, spent["user"], spent["system"], iowait)
            rows.append((now, core, *(round(_percent(share, total), 1) for share in shares)))
        return rows

    def _memory(self, now: dt.datetime) -> list[tuple[Any, ...]]:
        m = self.psutil.virtual_memory()
        swap = self.psutil.swap_memory().used
        return [(now, m.used, m.available, getattr(m, "cached", 0), m.total, swap)]

    def _disk(self, now: dt.datetime) -> list[tuple[Any, ...]]:
        rows = []
        for device, c in (self.psutil.disk_io_counters(perdisk=True) or {}).items():
            if device.startswith(("loop", "ram", "zram")):
                continue
            counters = (c.read_bytes, c.write_bytes, c.read_count, c.write_count)
            increase = self._increase("disk", device, counters)
            if increase:
                rows.append((now, device, *increase))
        return rows

    def _network(self, now: dt.datetime) -> list[tuple[Any, ...]]:
        rows = []
        for name, c in (self.psutil.net_io_counters(pernic=True) or {}).items():
            counters = (c.bytes_recv, c.bytes_sent, c.packets_recv, c.packets_sent)
            increase = self._increase("network", name, counters)
            if increase:
                rows.append((now, name, *increase))
        return rows

    def _processes(self, now: dt.datetime) -> list[tuple[Any, ...]]:
        alive: dict[int, Any] = {}
        rows = []
        for process in self.psutil.process_iter():
            known = alive[process.pid] = self.known.get(process.pid, process)
            try:
                with known.oneshot():
                    busy = known.cpu_percent()
                    memory = known.memory_info().rss
                    rows.append((now, known.pid, known.name(), busy, memory, known.num_threads()))
            except (self.psutil.NoSuchProcess, self.psutil.AccessDenied):
                continue
        self.known = alive
        rows.sort(key=lambda row: (-row[3], -row[4], row[1]))
        return rows[: self.top]
