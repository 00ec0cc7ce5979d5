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


class Curve:
    """Rates of a number that grows, over the last minute."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self.rates: collections.deque[float] = collections.deque(maxlen=POINTS)

    def add(self, now: float, value: float) -> float:
        """Take a value, and return how fast it grows, per second."""
        if self._last is not None and now > self._last[0]:
            self.rates.append(max(0.0, (value - self._last[1]) / (now - self._last[0])))
        self._last = now, value
        return self.rates[-1] if self.rates else 0.0


class Panel(Live):
    """A table with small curves, looked at twice a second."""

    _esm = module("panels.js", store="panelStore", render="renderPanel")
    _css = text_of("live.css", "panels.css")

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
        content = {"title": self._title, "columns": columns, "rows": rows}
        if content == self._last and not full:
            return None
        self._last = content
        return content, []

    def _curve(self, key: Any, what: str, now: float, value: float) -> tuple[float, list[float]]:
        curve = self._curves[key, what]
        rate = curve.add(now, value)
        return rate, [round(r, 3) for r in curve.rates]

    def _about(self) -> str:
        return self._title


class JobPanel(Panel):
    """What jobs do; made by ``job.live()`` and ``lab.jobs.live()``."""

    def __init__(
        self, jobs: Callable[[], Mapping[str, sl.Job]], known: Callable[[], list[str]], title: str, shown: Any,
        *, single: bool = False,
    ) -> None:  # fmt: skip
        self._single = single
        self._jobs_now, self._known, self._shown_thing = jobs, known, shown
        super().__init__(title)

    def _columns(self) -> list[tuple[str, bool]]:
        names = ["job", "state", "rows in", "in a second", "rows out", "out a second", "late",
                 "partly late", "rows behind", "watermark"]  # fmt: skip
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
                f"{progress.lag_rows:,}", "–" if mark is None else f"{mark:%Y-%m-%d %H:%M:%S}Z",  # noqa: RUF001
            ]  # fmt: skip
            error = "" if job.error is None else f"{type(job.error).__name__}: {job.error}"
            yield {
                "key": name, "cells": cells, "state": state, "curves": {"3": curve_in, "5": curve_out},
                "error": error, "buttons": ["resume" if state == "paused" else "pause", "stop"] if running else [],
            }  # fmt: skip
        for name in self._known():
            if name not in jobs:
                blank = [name, "not running here", *[""] * 8]
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

    def __init__(self, groups: Any) -> None:
        self._groups = groups
        super().__init__("Consumer groups")

    def _columns(self) -> list[tuple[str, bool]]:
        names = [
            "group",
            "stream",
            "partition",
            "committed",
            "a second",
            "end",
            "rows behind",
            "waiting",
            "process",
        ]
        return [(name, name not in ("group", "stream")) for name in names]

    def _rows(self, now: float) -> Iterable[dict[str, Any]]:
        for row in self._groups.to_polars().iter_rows(named=True):
            key = f"{row['group']}/{row['stream']}/{row['partition']}"
            rate, curve = self._curve(key, "position", now, row["position"])
            waiting: dt.timedelta = row["waiting"]
            cells = [
                row["group"], row["stream"], str(row["partition"]), f"{row['position']:,}", f"{rate:,.0f}",
                f"{row['end']:,}", f"{row['lag']:,}", f"{waiting.total_seconds():,.0f} s" if row["lag"] else "–",  # noqa: RUF001
                "nobody" if row["pid"] is None else str(row["pid"]),
            ]  # fmt: skip
            yield {
                "key": key,
                "cells": cells,
                "state": "",
                "curves": {"4": curve},
                "error": "",
                "buttons": [],
            }

    def _still_html(self) -> str:
        return html(self._groups)
