"""The transport bar of a replay: play, pause, step, speed, and a strip of events to scrub over."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import Any

import streamlab as sl
from streamlab.notebook.html import svg_image
from streamlab.notebook.live import Live, escape, module, text_of
from streamlab.palette import BLUE, FAINT

__all__ = ["Mark", "Transport", "strip_html"]

PARTS = 240
"""How many bars the strip has."""

SPEEDS = (0.1, 0.5, 1, 2, 5, 10, 60, 300, 600, 3600, 36_000, math.inf)

STEPS = ("1 row", "10 rows", "100ms", "1s", "10s", "1m", "10m", "1h")

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)


@dataclass(frozen=True)
class Mark:
    """A place to come back to: milliseconds since 1970 UTC, and what it is called."""

    at: float
    label: str


class Transport(Live):
    """The controls of a replay; made by ``replay.controls()``.

    Whatever looks at a stream of the replay moves with it. `mark` names instants to jump to.
    """

    _esm = module("axes.js", "transport.js", store="transportStore", render="renderTransport")
    _css = text_of("live.css", "transport.css")

    def __init__(self, replay: sl.Replay) -> None:
        self._replay = replay
        self._marks: list[Mark] = []
        self._density: list[int] = []
        self._last: Any = None
        super().__init__()
        self._fps = 20.0
        self._begin()

    def mark(self, instant: Any, label: str = "") -> Transport:
        """Name an instant of the replay: an aware datetime, or an ISO string (naive means UTC)."""
        at = _milliseconds(instant)
        low, high = map(_milliseconds, self._replay.span)
        if not low <= at <= high:
            raise sl.InvalidTime(
                f"{instant} is not in this replay, which goes from {self._replay.span[0]} to {self._replay.span[1]}"
            )
        with self._lock:
            self._marks = sorted({*self._marks, Mark(at, label)}, key=lambda mark: mark.at)
            self._full = True
            self._wake.set()
        return self

    # -- what a view says --------------------------------------------------------------------

    def _look(self, *, full: bool) -> tuple[dict[str, Any], list[bytes]] | None:
        replay = self._replay
        if not self._density:
            self._density = replay.density(PARTS)
            full = True
        position, playing = _milliseconds(replay.position), replay.playing
        speed = replay.speed
        state = (position, playing, speed, replay.done, replay.stopped, tuple(self._marks))
        if state == self._last and not full:
            return None
        self._last = state
        start, stop = map(_milliseconds, replay.span)
        content = {
            "name": ", ".join(replay),
            "start": start,
            "stop": stop,
            "position": position,
            "playing": playing,
            "speed": None if speed == math.inf else speed,
            "done": replay.done,
            "stopped": replay.stopped,
            "generation": replay.generation,
            "released": [[name, *counts] for name, counts in replay.released.items()],
            "marks": [[mark.at, mark.label] for mark in self._marks],
        }
        if full:
            content |= {
                "density": self._density,
                "speeds": [None if s == math.inf else s for s in SPEEDS],
                "steps": list(STEPS),
            }
        return content, []

    def _told(self, message: dict[str, Any]) -> None:
        replay = self._replay
        match message["t"]:
            case "play":
                replay.play() if message["on"] else replay.pause()
            case "seek":
                replay.seek(self._instant(float(message["at"])))
            case "step" | "back" as way:
                replay.pause()
                by = _step(str(message["by"]))
                replay.step(by) if way == "step" else replay.back(by)
            case "speed":
                speed = message["value"]
                replay.speed = math.inf if speed is None else float(speed)
            case "mark":
                self.mark(self._instant(float(message["at"])), str(message.get("label", "")))
            case "unmark":
                at = float(message["at"])
                self._marks = [mark for mark in self._marks if mark.at != at]

    def _instant(self, at: float) -> dt.datetime:
        """Return a place of the strip as an instant within the replay."""
        start, stop = self._replay.span
        return min(max(EPOCH + dt.timedelta(milliseconds=at), start), stop)

    def _about(self) -> str:
        return (
            f"replay of {', '.join(self._replay)} at {self._replay.position:%Y-%m-%d %H:%M:%S} UTC"
        )

    def _still_html(self) -> str:
        start, stop = self._replay.span
        share = (self._replay.position - start) / max(stop - start, SECOND / 1000)
        counts = self._density or self._replay.density(PARTS)
        ends = f"{start:%Y-%m-%d %H:%M:%S} to {stop:%Y-%m-%d %H:%M:%S} UTC"
        released = ", ".join(
            f"{name}: {done:,} of {total:,} rows"
            for name, (done, total) in self._replay.released.items()
        )
        return f"{strip_html(counts, share)}<div>{escape(ends)}; {escape(released)}</div>"


def strip_html(counts: list[int], share: float) -> str:
    """Return a strip of bars as an image, those before a place coloured."""
    most = max([*counts, 1])
    bars = "".join(
        f'<rect x="{i}" y="{40 - 40 * count / most:.1f}" width="1" height="{40 * count / most:.1f}" '
        f'fill="{BLUE if i < share * len(counts) else FAINT}"/>'
        for i, count in enumerate(counts)
    )
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(counts)} 40" '
        f'preserveAspectRatio="none" width="960" height="48">{bars}</svg>'
    )
    return svg_image(drawn, "rows over time", "width:100%;height:48px")


def _milliseconds(instant: Any) -> float:
    if isinstance(instant, str):
        instant = dt.datetime.fromisoformat(instant)
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=dt.UTC)
    return (instant - EPOCH) / (SECOND / 1000)  # type: ignore[no-any-return]


def _step(text: str) -> int | str:
    """Return a step as a replay takes it: a number of rows, or a length of time."""
    number, _, unit = text.partition(" ")
    return int(number) if unit.startswith("row") else text
