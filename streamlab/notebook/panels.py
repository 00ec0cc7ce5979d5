"""Panels: what jobs and consumer groups do, as tables of numbers that move, with buttons."""

from __future__ import annotations

import collections
import datetime as dt
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import streamlab as sl
from streamlab.notebook.html import html
from streamlab.notebook.live import Live, module, text_of

__all__ = ["GroupPanel", "JobPanel"]

POINTS = 120
"""How many steps a small curve has: a minute, at two looks a second."""

FPS = 2.0


SMOOTH = 5
"""A rate is that between so many looks: results that come once a second have a steady one."""


class Curve:
    """A number, and how fast it grows, over the last minute."""

    def __init__(self) -> None:
        self._last: collections.deque[tuple[float, float]] = collections.deque(maxlen=SMOOTH)
        self.rates: collections.deque[float] = collections.deque(maxlen=POINTS)
        self.values: collections.deque[float] = collections.deque(maxlen=POINTS)

    def add(self, now: float, value: float) -> float:
        """Take a value, and return how fast it grows, per second."""
        self._last.append((now, value))
        (then, before), (now, value) = self._last[0], self._last[-1]
        if now > then:
            self.rates.append((value - before) / (now - then))
        self.values.append(value)
        return self.rates[-1] if self.rates else 0.0


def _clock(at: dt.datetime | None) -> str:
    """Return a place in time, without the date if that is today's."""
    if at is None:
        return "–"  # noqa: RUF001
    today = at.date() == dt.datetime.now(dt.UTC).date()
    return f"{at:%H:%M:%S}Z" if today else f"{at:%Y-%m-%d %H:%M:%S}Z"


def _ago(since: dt.datetime | None) -> str:
    """Return how long ago something was, in words; nothing if it is still to come."""
    if since is None:
        return ""
    seconds = (dt.datetime.now(dt.UTC) - since).total_seconds()
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:.1f} s" if seconds >= 0 else ""


class Panel(Live):
    """A table with small curves, looked at twice a second."""

    _esm = module("panels.js", store="panelStore", render="renderPanel")
    _css = text_of("live.css", "panels.css")

    _none = ""  # what is said where there are no rows

    def __init__(self, title: str) -> None:
        self._title = title
        self._curves: dict[Any, Curve] = collections.defaultdict(Curve)
        self._last: Any = None
        super().__init__()
        self._fps = FPS
        self._begin()

    def _rows(self, now: float) -> Iterable[dict[str, Any]]:
        """Yield rows: ``key``, ``cells``, ``state``, ``curves`` by column, ``error``, ``buttons``."""
        raise NotImplementedError

    def _columns(self) -> list[tuple[str, bool]]:
        """Return the names of the columns, and whether they stand to the right."""
        raise NotImplementedError

    def _look(self, *, full: bool) -> tuple[dict[str, Any], list[bytes]] | None:
        rows = list(self._rows(time.monotonic()))
        known = {row["key"] for row in rows}
        for key in [k for k in self._curves if k[0] not in known]:
            del self._curves[key]  # of what is gone nothing is kept
        columns = [{"name": name, "right": right} for name, right in self._columns()]
        content = {"title": self._title, "columns": columns, "rows": rows, "none": self._none}
        if content == self._last and not full:
            return None
        self._last = content
        return content, []

    def _curve(self, key: Any, what: str, now: float, value: float) -> tuple[float, list[float]]:
        """Return how fast a number grows now, and how fast it did."""
        curve = self._curves[key, what]
        rate = max(0.0, curve.add(now, value))
        return rate, [round(max(0.0, r), 3) for r in curve.rates]

    def _about(self) -> str:
        return self._title


class JobPanel(Panel):
    """What jobs do; made by ``job.live()`` and ``lab.jobs.live()``."""

    _none = "no jobs yet: query.run(into=...) starts one, and it appears here"

    def __init__(
        self, jobs: Callable[[], Mapping[str, sl.Job]], known: Callable[[], list[str]], title: str, shown: Any,
        *, single: bool = False,
    ) -> None:  # fmt: skip
        self._single = single
        self._jobs_now, self._known, self._shown_thing = jobs, known, shown
        super().__init__(title)

    def _columns(self) -> list[tuple[str, bool]]:
        names = ["job", "state", "rows in", "in/s", "rows out", "out/s", "late",
                 "partly late", "rows behind", "watermark", "behind now"]  # fmt: skip
        return [(name, name not in ("job", "state")) for name in names]

    def _rows(self, now: float) -> Iterable[dict[str, Any]]:
        jobs = self._jobs_now()
        for name, job in jobs.items():
            progress = job.progress
            rate_in, curve_in = self._curve(name, "in", now, progress.rows_in)
            rate_out, curve_out = self._curve(name, "out", now, progress.rows_out)
            mark = progress.watermark
            running = job.status == "running"
            state = "paused" if running and job.paused else job.status
            cells = [
                name, state, f"{progress.rows_in:,}", f"{rate_in:,.0f}", f"{progress.rows_out:,}",
                f"{rate_out:,.0f}", f"{progress.rows_late:,}", f"{progress.rows_partly_late:,}",
                f"{progress.lag_rows:,}", _clock(mark), _ago(mark),
            ]  # fmt: skip
            error = "" if job.error is None else f"{type(job.error).__name__}: {job.error}"
            yield {
                "key": name, "cells": cells, "state": state, "curves": {"3": curve_in, "5": curve_out},
                "error": error, "buttons": ["resume" if state == "paused" else "pause", "stop"] if running else [],
            }  # fmt: skip
        for name in self._known():
            if name not in jobs:
                blank = [name, "not running here", *[""] * 9]
                yield {
                    "key": name,
                    "cells": blank,
                    "state": "",
                    "curves": {},
                    "error": "",
                    "buttons": [],
                }

    def _look(self, *, full: bool) -> tuple[dict[str, Any], list[bytes]] | None:
        over = self._single and all(job.status != "running" for job in self._jobs_now().values())
        found = super()._look(full=full)
        self.ended = self.ended or over  # the last numbers stay
        return found

    def _told(self, message: dict[str, Any]) -> None:
        job = self._jobs_now()[str(message["key"])]
        match message["t"]:
            case "pause":
                job.pause()
            case "resume":
                job.resume()
            case "stop":  # it ends what is under way first, which may take a while
                threading.Thread(target=job.stop, name="streamlab stop", daemon=True).start()

    def _still_html(self) -> str:
        return html(self._shown_thing)


class GroupPanel(Panel):
    """How far consumer groups are; made by ``lab.groups.live()``."""

    _none = "no consumer groups yet: stream.consumer(name) makes one, and it appears here"

    def __init__(self, groups: Any) -> None:
        self._groups = groups
        super().__init__("Consumer groups")

    def _columns(self) -> list[tuple[str, bool]]:
        names = ["group", "stream", "partition", "committed", "taken/s", "end", "rows behind",
                 "growth/s", "waiting", "member (process)"]  # fmt: skip
        return [(name, name not in ("group", "stream")) for name in names]

    def _rows(self, now: float) -> Iterable[dict[str, Any]]:
        for row in self._groups.to_polars().iter_rows(named=True):
            key = f"{row['group']}/{row['stream']}/{row['partition']}"
            rate, curve = self._curve(key, "position", now, row["position"])
            lag = self._curves[key, "lag"]
            growth = round(lag.add(now, row["lag"]))
            waiting: dt.timedelta = row["waiting"]
            cells = [
                row["group"], row["stream"], str(row["partition"]), f"{row['position']:,}", f"{rate:,.0f}",
                f"{row['end']:,}", f"{row['lag']:,}", f"{growth:+,}" if growth else "0",
                f"{waiting.total_seconds():,.0f} s" if row["lag"] else "–",  # noqa: RUF001
                "nobody" if row["pid"] is None else str(row["pid"]),
            ]  # fmt: skip
            yield {
                "key": key,
                "cells": cells,
                "state": "",
                "curves": {"4": curve, "6": list(lag.values)},
                "error": "",
                "buttons": [],
            }

    def _still_html(self) -> str:
        return html(self._groups)
